"""The forward pass without a server, in a process of its own: `python -m benchmarks.serving.bare`.

It answers each line on standard input, a number of seconds, by computing for so long, and prints images a second and
milliseconds of the processor for an image: of the version's whole answer (adapters, heads, detectors), of the plain
backbone by transformers, and of reading the photos and answering them. All take the same photos in full batches; the
first two have them decoded before. Each computes with one thread and with one for each core, and the faster one counts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.serving.stage import TARGETS, ModelOnStage, photos
from registry.errors import LoadFailed
from registry.machine.cores import usable_cores
from registry.machine.programs import PIPE, Process, start

_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(usable_cores())}
"""Threads wait as in a replica, which has to be said before torch is imported. How many there are is tried here."""

_TRY = 0.01
"""Seconds; each is computed once more then."""


@dataclass(frozen=True)
class ForwardSpeed:
    """Images a second, and milliseconds of the processor for each."""

    rate: float
    processor_ms: float


class BareForward:
    """The process, which waits without using a core between two measurements."""

    def __init__(self, process: Process[str]) -> None:
        self._process = process

    def speeds(self, seconds: float) -> tuple[ForwardSpeed, ForwardSpeed, ForwardSpeed]:
        """Of the version's forward pass, of the plain backbone, and of reading and answering.

        Raises:
            LoadFailed: the process ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018  pipes
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise LoadFailed("the process of the bare forward pass ended")
        version, plain, whole = json.loads(line)
        return ForwardSpeed(*version), ForwardSpeed(*plain), ForwardSpeed(*whole)


@contextmanager
def bare_forward(model: ModelOnStage, version: str, max_batch: int) -> Iterator[BareForward]:
    """The forward pass of a version in batches of so many images."""
    words = [str(model.bundles[version]), str(model.backbone.folder), str(max_batch)]
    with start(
        [sys.executable, "-m", "benchmarks.serving.bare", *words],
        stdin=PIPE, stdout=PIPE, text=True, env=os.environ | _ENVIRONMENT,
    ) as process:  # fmt: skip
        bare = BareForward(process)
        try:
            bare.speeds(_TRY)  # it has started then, and takes nothing from what is measured beside it
            yield bare
        finally:
            process.kill()


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("backbone", type=click.Path(path_type=Path))
@click.argument("max_batch", type=int)
def main(bundle: Path, backbone: Path, max_batch: int) -> None:
    """Compute whenever asked."""
    import torch

    from adapters.answer.loading import load_bundle
    from benchmarks.synthetic import files_of

    loaded = load_bundle(files_of(bundle), backbone_folders=[backbone])
    loaded.begin_computing()
    images = photos()
    rows = [loaded.prepare(image, TARGETS[number % len(TARGETS)]) for number, image in enumerate(images)]
    model: Any = getattr(loaded.components.runtime, "model")  # noqa: B009  only torch's runtimes have it
    side = int(loaded.components.preprocessing.square(images[0]).shape[0])
    pixels = torch.randn(max_batch, 3, side, side)
    batches = [rows[at : at + max_batch] for at in range(0, len(rows), max_batch)]

    def forward(number: int) -> int:
        batch = batches[number % len(batches)]
        loaded.answer_rows(batch)
        return len(batch)

    @torch.no_grad()
    def plain(number: int) -> int:
        model(pixel_values=pixels)
        return max_batch

    def whole(number: int) -> int:
        chosen = [(number * max_batch + one) % len(images) for one in range(max_batch)]
        loaded.predict([images[one] for one in chosen], target=[TARGETS[one % len(TARGETS)] for one in chosen])
        return max_batch

    for line in sys.stdin:
        found = [_fastest(each, float(line)) for each in (forward, plain, whole)]
        print(json.dumps(found), flush=True)  # noqa: T201


def _fastest(compute: Callable[[int], int], seconds: float) -> tuple[float, float]:
    """Images a second and milliseconds of the processor for one, with the better number of threads."""
    import torch

    found = []
    for threads in sorted({1, usable_cores()}):
        torch.set_num_threads(threads)
        found.append(_speed(compute, seconds / 2))
    return max(found)


def _speed(compute: Callable[[int], int], seconds: float) -> tuple[float, float]:
    compute(0)
    began, processor, done, number = time.perf_counter(), time.process_time(), 0, 0
    while time.perf_counter() - began < seconds:
        done += compute(number)
        number += 1
    took = time.process_time() - processor
    return done / (time.perf_counter() - began), 1000 * took / done


if __name__ == "__main__":
    main()

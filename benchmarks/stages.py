"""The time of each stage of a mixed batch: images, the blocks of the backbone, heads and detectors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from adapters.answer.batching import predict_together
from adapters.answer.components import LoadedComponent
from adapters.answer.forward_pass import forward
from adapters.answer.loaded import LoadedVersion
from adapters.runtimes.interface import Runtime
from benchmarks.synthetic import noise


@dataclass(frozen=True)
class BatchRow:
    """An image with its version and its target."""

    version: LoadedVersion
    target: str
    image: np.ndarray

    @property
    def adapter(self) -> LoadedComponent:
        """The adapter that answers it."""
        return self.version.components.adapters[self.target]


def rows(versions: Sequence[LoadedVersion], count: int) -> list[BatchRow]:
    """`count` rows of random images, for all targets of all versions in turn."""
    asked = [(version, target) for target in versions[0].targets for version in versions]
    images = noise(count, versions[0].components.preprocessing.crop)
    return [BatchRow(*asked[number % len(asked)], image) for number, image in enumerate(images)]


def predict(batch: Sequence[BatchRow]) -> list[Any]:
    """Answer a mixed batch."""
    return predict_together([row.version for row in batch], [row.image for row in batch], [row.target for row in batch])


def use(runtime: Runtime, pixels: torch.Tensor) -> None:
    """Run images through all blocks without an adapter, so that all weights have been read."""
    forward_pass = runtime.start(pixels, [None] * len(pixels))
    forward_pass.advance(int(runtime.ref.config["num_hidden_layers"]))


def measure(batch: Sequence[BatchRow], rounds: int) -> dict[str, float]:
    """Milliseconds of each stage of a mixed batch, the median of the rounds.

    Returns:
        `decode and resize`; `blocks A to B` between blocks where features are taken; `heads and detectors`; `whole
        batch`, measured separately; `the same blocks, no adapter`, on the backbone alone.
    """
    taken = [_one_round(batch) for _ in range(rounds)]
    return {name: round(statistics.median(one[name] for one in taken), 3) for name in taken[0]}


def _one_round(batch: Sequence[BatchRow]) -> dict[str, float]:
    runtime, adapters = batch[0].version.components.runtime, [row.adapter for row in batch]
    slots = [adapter.slot for adapter in adapters]
    clock = _Clock()
    squares = [row.version.components.preprocessing.square(row.image) for row in batch]
    pixels = batch[0].version.components.preprocessing.normalise(torch.from_numpy(np.stack(squares)))
    clock.lap("decode and resize")
    forward_pass = runtime.start(pixels, slots)
    blocks, before = sorted({spec.block for one in adapters for stage in one.stages for spec in stage.feature_specs}), 0
    for block in blocks:
        forward_pass.advance(block)
        clock.lap(f"blocks {before + 1} to {block}")
        before = block
    passed = sum(took for name, took in clock.laps.items() if name.startswith("blocks"))
    del forward_pass
    clock.skip()
    forward(runtime, pixels, adapters)
    clock.lap("answers")
    clock.laps["heads and detectors"] = max(0.0, clock.laps.pop("answers") - passed)
    clock.skip()
    predict(batch)
    clock.lap("whole batch")
    bare = runtime.start(pixels, [None] * len(batch))
    bare.advance(blocks[-1])
    clock.lap("the same blocks, no adapter")
    return clock.laps


class _Clock:
    """Milliseconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.skip()

    def skip(self) -> None:
        """Begin the next lap now."""
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a lap, begin the next one."""
        self.laps[name] = (time.perf_counter() - self._start) * 1e3
        self.skip()

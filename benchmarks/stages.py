"""Where the time of a mixed batch goes: its images, the blocks of the backbone, heads and detectors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from adapters.answer.answering import answer
from adapters.answer.components import Component
from adapters.answer.loaded import LoadedVersion, predict_together
from adapters.runtimes.runtimes import Runtime
from benchmarks.made import noise


@dataclass(frozen=True)
class Row:
    """An image, and the version and target that it is for."""

    version: LoadedVersion
    target: str
    image: np.ndarray

    @property
    def adapter(self) -> Component:
        """What answers it."""
        return self.version.parts.adapters[self.target]


def rows(versions: Sequence[LoadedVersion], count: int) -> list[Row]:
    """Rows of random images for all targets of all versions in turn, as many as asked for."""
    asked = [(version, target) for target in versions[0].targets for version in versions]
    images = noise(count, versions[0].parts.preprocessing.crop)
    return [Row(*asked[number % len(asked)], image) for number, image in enumerate(images)]


def predict(batch: Sequence[Row]) -> list[Any]:
    """Answer a mixed batch."""
    return predict_together([row.version for row in batch], [row.image for row in batch], [row.target for row in batch])


def use(runtime: Runtime, pixels: torch.Tensor) -> None:
    """Let images through all blocks without an adapter, so that every weight has been touched."""
    walk = runtime.start(pixels, [None] * len(pixels))
    walk.advance(int(runtime.ref.config["num_hidden_layers"]))


def measure(batch: Sequence[Row], rounds: int) -> dict[str, float]:
    """Milliseconds of each stage of a mixed batch, the median of the rounds.

    Returns:
        `decode and resize`; `blocks A to B` between the places where features are taken; `heads and detectors`; `whole
        batch`, which is a call of its own; `the same blocks, no adapter`, on the backbone alone.
    """
    taken = [_one_round(batch) for _ in range(rounds)]
    return {name: round(statistics.median(one[name] for one in taken), 3) for name in taken[0]}


def _one_round(batch: Sequence[Row]) -> dict[str, float]:
    runtime, adapters = batch[0].version.parts.runtime, [row.adapter for row in batch]
    slots = [adapter.slot for adapter in adapters]
    clock = _Clock()
    squares = [row.version.parts.preprocessing.square(row.image) for row in batch]
    pixels = batch[0].version.parts.preprocessing.normalise(torch.from_numpy(np.stack(squares)))
    clock.lap("decode and resize")
    walk = runtime.start(pixels, slots)
    blocks, before = sorted({tap.block for one in adapters for stage in one.stages for tap in stage.taps}), 0
    for block in blocks:
        walk.advance(block)
        clock.lap(f"blocks {before + 1} to {block}")
        before = block
    passed = sum(took for name, took in clock.laps.items() if name.startswith("blocks"))
    del walk
    clock.skip()
    answer(runtime, pixels, adapters)
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

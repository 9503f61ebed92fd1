"""How long batches take: measured at the start, and corrected by every batch that is computed.

A batch of a few rows takes less time than a full one, so its duration is compared with what was measured for as many
rows. The ratio says how much slower the machine is now, and with it how long a full batch takes. Answers are promised
by what batches seldom exceed, the mean and twice the mean deviation from it: by the mean alone every second one that is
promised just in time would be late.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from registry.serving.loaders import LoadedForBatches
from registry.serving.random_image import random_png

SIZES = (1, 8, 16, 32, 64)
"""Rows of the batches that are tried."""
DEFAULT_MAX_BATCH = 32
"""For versions that can't be calibrated."""
_ENOUGH = 0.9
"""Of the best throughput: a larger batch would gain little, and every request in it waits longer."""
_TRIES = 3
_SLOW = 0.25
"""Seconds of a batch after which no larger one is tried: requests would wait too long for it."""
_HOPELESS = 1.0
"""The same after one try. A first try of less may have met another thread, e.g. one that makes a client of S3; the very
first takes longer anyway, because libraries make what they keep."""
_GUESS = 0.001
"""Seconds a row takes before anything was measured."""
_SHORTEST = 1e-6
"""Seconds; clocks may stand still for less."""
_WEIGHT, _WEIGHT_OF_DEVIATION = 0.2, 0.1
"""Of the newest batch in the mean, and in the mean deviation."""
_DEVIATIONS = 2.0
"""Above the mean. Durations that are normally distributed exceed it in 1 of 18 cases. TCP's timer has four above it
(RFC 6298), because one that ends too early sends twice."""
_OUTLIER = 3.0
"""A batch that is slower than the mean by more than this counts as if it were this much slower."""
_SIDE = 256


class Pace:
    """How long batches take, in seconds. One thread notes, others read."""

    def __init__(self, max_batch: int, measured: Mapping[int, float] | None = None) -> None:
        """Args:
        measured: rows of a batch -> its seconds; none for versions that can't be calibrated.
        """
        self.max_batch = max_batch
        self._measured = dict(sorted((measured or {}).items()))
        self._slowness: float | None = 1.0 if self._measured else None
        self._deviation = self._between = 0.0

    def seconds(self, rows: int) -> float:
        """How long a batch of so many rows takes now, and seldom longer."""
        mean = 1.0 if self._slowness is None else self._slowness
        return self._usual(rows) * (mean + _DEVIATIONS * self._deviation) + self._between

    def note(self, rows: int, seconds: float, between: float = 0.0) -> None:
        """A batch was computed.

        Args:
            between: seconds for which it could not begin, whatever the number of its rows. They say nothing about what
                a row takes: of a batch of one they would be a multiple.
        """
        self._between += _WEIGHT * (between - self._between)
        now = max(seconds, _SHORTEST) / self._usual(rows)
        if self._slowness is None:
            self._slowness = now
        else:
            more = min(now, _OUTLIER * self._slowness) - self._slowness
            self._slowness += _WEIGHT * more
            self._deviation += _WEIGHT_OF_DEVIATION * (abs(more) - self._deviation)

    def _usual(self, rows: int) -> float:
        """Seconds of a batch when it was measured, on the straight line between the two nearest sizes."""
        below, above = (0, 0.0), (0, 0.0)
        for size, seconds in self._measured.items():
            below, above = above, (size, seconds)
            if size >= rows:
                break
        if above[0] < rows:  # larger than all that were measured: in proportion to the largest
            return rows * (above[1] / above[0] if above[0] else _GUESS)
        share = (rows - below[0]) / (above[0] - below[0])
        return below[1] + share * (above[1] - below[1])


@dataclass(frozen=True)
class _Timing:
    rows: int
    seconds: float

    @property
    def throughput(self) -> float:
        return self.rows / self.seconds


Clock = Callable[[], float]


def calibrate(
    loaded: LoadedForBatches,
    max_batch: int | None = None,
    clocks: Sequence[Clock] = (time.perf_counter, time.process_time),
) -> Pace:
    """Time batches of random images: the smallest that has 90% of the best throughput is a full batch.

    Takes up to about a second, more only where one image alone takes long, or other work needs the cores.

    Args:
        max_batch: rows of a full batch, if that is decided; None to choose.
        clocks: the one by which a batch took least counts. On a machine with other work that is the processor time:
            by the time that passes, only the smallest batches are fast, because the system does not interrupt them,
            and a replica would keep computing image by image once that work is done.
    """
    rows = _rows(loaded, max_batch or SIZES[-1])
    timings: list[_Timing] = []
    for size in sorted({*SIZES, max_batch or 1}):
        if size <= len(rows) and (not timings or timings[-1].seconds < _SLOW):
            hopeless = _HOPELESS if timings else math.inf
            timings.append(_Timing(size, _fastest(lambda: loaded.answer_rows(rows[:size]), clocks, hopeless)))  # noqa: B023
    best = max(timing.throughput for timing in timings)
    chosen = next(timing.rows for timing in timings if timing.throughput >= _ENOUGH * best)
    return Pace(max_batch or chosen, {timing.rows: timing.seconds for timing in timings})


def _fastest(act: Callable[[], object], clocks: Sequence[Clock], hopeless: float) -> float:
    """Seconds of the fastest of a few tries, because other work on the machine can only slow it down.

    After a first try of more than `hopeless` seconds there is no other.
    """
    best = float("inf")
    for number in range(_TRIES):
        began = [clock() for clock in clocks]
        act()
        best = min(best, *(clock() - start for clock, start in zip(clocks, began, strict=True)))
        if best > (_SLOW if number else hopeless):
            break
    return max(best, _SHORTEST)


def _rows(loaded: LoadedForBatches, count: int) -> list[object]:
    """Rows of random images, with each target in turn.

    None is without a target: a version without a router answers such a row without computing it, and one with a router
    computes it twice, so that batches with different shares of them could not be compared.
    """
    asked = loaded.targets or (None,)
    different = [loaded.prepare(random_png(number, _SIDE), target) for number, target in enumerate(islice(asked, 8))]
    return [different[number % len(different)] for number in range(count)]

"""Latencies of windows, as signs: in how many windows was the canary too slow?

Times of requests depend on each other, since load comes and goes: tests that count each of them find differences where
there are none. What counts is a window of ten seconds at one replica, in which both arms had the same load, and in it
each unit once: keys are sticky, so a slow one is always in the same arm, however often it asks. Of the
signs, no more than half are against the canary while it is as it should be: `against_bound` with 0.5.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from registry.trials.evalues import EValue, Rate, against_bound
from registry.trials.merge import MergedArm
from registry.trials.observations import MAX_WINDOWS, WINDOW_SECONDS, Window

EVEN = 0.5
"""The probability of a sign against the canary that is allowed."""
ENOUGH, ENOUGH_FOR_MEDIAN = 40, 5
"""Units of either arm in a window from which on its p95, or else its median, is compared: from 39 on one slow unit does
not move the p95, see `registry.trials.quantiles`."""
MAX_RATIO = 1e6
"""Stands for larger ratios, and for the ratio to a rate of 0."""


@dataclass(frozen=True)
class TrialHour:
    """One hour of a trial: 1 is the first.

    Observations keep the windows of the last hour, so each hour of a trial is judged by itself, with a part of the
    probability of a false alarm: 1 / (k (k + 1)) of it in hour k, which is all of it in all hours together.

    Attributes:
        number: which one.
        first: its first window.
    """

    number: int
    first: int

    @classmethod
    def at(cls, began: float, now: float) -> TrialHour:
        """The hour of a trial that `began` in which `now` is, both in seconds since 1970."""
        start = int(began // WINDOW_SECONDS)
        past = max(0, int(now // WINDOW_SECONDS) - start) // MAX_WINDOWS
        return cls(past + 1, start + past * MAX_WINDOWS)

    def alpha(self, alpha: float) -> float:
        """The part of a trial's `alpha` for this hour."""
        return alpha / (self.number * (self.number + 1))

    def __contains__(self, window: int) -> bool:
        return self.first <= window < self.first + MAX_WINDOWS


def slower_windows(canary: MergedArm, stable: MergedArm, ratio: float, hour: TrialHour | None) -> Rate:
    """Windows in which the canary's compute took more than `ratio` times as long as stable's, of those with either.
    Without an hour, all that are kept.

    Compared are the 95th percentiles, or the medians where an arm had fewer than 40 units. Windows in which an arm
    had fewer than 5, and ties, are left out.
    """
    signs = [_slower(mine, other, ratio) for mine, other in _both(canary, stable, hour)]
    return _rate(signs)


def late_windows(canary: MergedArm, stable: MergedArm | None, bound: float, hour: TrialHour) -> Rate:
    """Windows in which the 95th percentile of the canary's requests was above a bound in milliseconds, and stable's was
    not, of those where exactly one was. Without an arm to compare with: of all windows. Where there were fewer than 40
    units, the medians; fewer than 5, nothing.
    """
    if stable is None:
        every = (window for windows in canary.windows.values() for window in windows if window.at in hour)
        return _rate([is_late(window, bound, window.asked) for window in every])
    signs = []
    for mine, other in _both(canary, stable, hour):
        fewest = min(mine.asked, other.asked)
        late, also = is_late(mine, bound, fewest), is_late(other, bound, fewest)
        signs.append(late if late is not None and also is not None and late != also else None)
    return _rate(signs)


def compute_ratios(canary: MergedArm, stable: MergedArm) -> list[float]:
    """How many times as long the canary computed, of each window that `slower_windows` may compare."""
    pairs = [_compared(mine, other) for mine, other in _pairs(canary, stable)]
    return [min(mine / other, MAX_RATIO) for mine, other in filter(None, pairs) if other]


def whole(arms: Sequence[MergedArm]) -> MergedArm:
    """One arm with the windows of several stages: of a time that two stages share, those of the later one."""
    windows: dict[str, dict[int, Window]] = defaultdict(dict)
    for arm in arms:
        for replica, found in arm.windows.items():
            windows[replica].update({window.at: window for window in found})
    version = arms[-1].version if arms else ""
    return MergedArm(
        version, windows={name: tuple(found[at] for at in sorted(found)) for name, found in windows.items()}
    )


def is_late(window: Window, bound: float, units: int) -> bool | None:
    """Whether a window's requests took longer than a bound in milliseconds; None if nobody knows.

    Args:
        units: of the window, or of the one that it is compared with, if that has fewer: they say what is compared.
    """
    time = window.request_p95 if units >= ENOUGH else window.request_p50
    return None if time is None or units < ENOUGH_FOR_MEDIAN else time > bound


def latency_evidence(signs: Rate) -> EValue:
    """Evidence that more than half of the windows are against the canary."""
    return against_bound(signs, EVEN)


def _slower(mine: Window, other: Window, ratio: float) -> bool | None:
    times = _compared(mine, other)
    if times is None or times[0] == ratio * times[1]:
        return None
    return times[0] > ratio * times[1]


def _compared(mine: Window, other: Window) -> tuple[float, float] | None:
    """The compute times of both arms that are compared; None if one had too few requests."""
    fewest = min(mine.asked, other.asked)
    if fewest < ENOUGH_FOR_MEDIAN:
        return None
    enough = fewest >= ENOUGH
    time, base = (mine.compute_p95, other.compute_p95) if enough else (mine.compute_p50, other.compute_p50)
    return None if time is None or base is None else (time, base)


def _both(canary: MergedArm, stable: MergedArm, hour: TrialHour | None) -> Iterator[tuple[Window, Window]]:
    """The windows that both arms have at a replica, in the order of replicas and time."""
    return ((mine, other) for mine, other in _pairs(canary, stable) if hour is None or mine.at in hour)


def _pairs(canary: MergedArm, stable: MergedArm) -> Iterator[tuple[Window, Window]]:
    for replica, windows in sorted(canary.windows.items()):
        others = {window.at: window for window in stable.windows.get(replica, ())}
        yield from ((window, others[window.at]) for window in windows if window.at in others)


def _rate(signs: list[bool | None]) -> Rate:
    known = [sign for sign in signs if sign is not None]
    return Rate(sum(known), len(known))

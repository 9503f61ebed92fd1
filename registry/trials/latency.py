"""Latencies of windows, as signs: in how many windows was the canary too slow?

Times of requests depend on each other, since load comes and goes: tests that count each of them find differences where
there are none. What counts is a window of ten seconds at one replica, in which both arms had the same load. Of the
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
ENOUGH, ENOUGH_FOR_MEDIAN = 20, 5
"""Requests of either arm in a window from which on its p95, or else its median, is compared."""
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

    Compared are the 95th percentiles, or the medians where an arm had fewer than 20 requests. Windows in which an arm
    had fewer than 5, and ties, are left out.
    """
    signs = [_slower(mine, other, ratio) for mine, other in _both(canary, stable, hour)]
    return _rate(signs)


def late_windows(canary: MergedArm, stable: MergedArm | None, bound: float, hour: TrialHour) -> Rate:
    """Windows in which the 95th percentile of the canary's requests was above a bound in milliseconds, and stable's was
    not, of those where exactly one was. Without an arm to compare with: of all windows.
    """
    if stable is None:
        every = (window for windows in canary.windows.values() for window in windows if window.at in hour)
        return _rate([_is_late(window, bound) for window in every])
    signs = []
    for mine, other in _both(canary, stable, hour):
        late, also = _is_late(mine, bound), _is_late(other, bound)
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
    fewest = min(mine.n, other.n)
    if fewest < ENOUGH_FOR_MEDIAN:
        return None
    enough = fewest >= ENOUGH
    time, base = (mine.compute_p95, other.compute_p95) if enough else (mine.compute_p50, other.compute_p50)
    return None if time is None or base is None else (time, base)


def _is_late(window: Window, bound: float) -> bool | None:
    """None if it had too few requests, or of none the time is known."""
    return window.request_p95 > bound if window.request_p95 is not None and window.n >= ENOUGH_FOR_MEDIAN else None


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

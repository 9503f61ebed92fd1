"""What a trial's report says of each version by itself. From merged observations; no I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, Self, get_args

from registry.evidence.stats import wilson
from registry.trials.counts import rate_of
from registry.trials.evalues import Rate
from registry.trials.latency import ENOUGH_FOR_MEDIAN, whole
from registry.trials.merge import MergedArm
from registry.trials.observations import WINDOW_SECONDS, LeftOut, Window

TrialEvent = Literal["error", "flagged", "wrong", "alarmed", "missed"]
TRIAL_EVENTS: tuple[TrialEvent, ...] = get_args(TrialEvent)
"""See `registry.trials.observations.EVENTS`. More of each is worse; of `flagged` nobody knows."""
TIMES = ("compute_p50", "compute_p95", "request_p50", "request_p95")
DIGITS = 6
"""Of values for people."""


@dataclass(frozen=True)
class ObservedRate:
    """A share of units, `x` of `n`, at the first time of each, with Wilson's 95% interval; no value without units."""

    x: int
    n: int
    value: float | None
    low: float
    high: float

    @classmethod
    def of(cls, rate: Rate) -> Self:
        """The share of these counts."""
        ends, value = wilson(rate.x, rate.n), round(rate.x / rate.n, DIGITS) if rate.n else None
        return cls(rate.x, rate.n, value, round(ends.low, DIGITS), round(ends.high, DIGITS))


@dataclass(frozen=True)
class TimePoint:
    """Ten seconds that began at `at`, in seconds since 1970: the p95 of compute in milliseconds, of several replicas
    the median."""

    at: int
    compute_p95: float


@dataclass(frozen=True)
class ArmFigures:
    """What one version did in all stages of a trial.

    Attributes:
        asked, labelled, ood: units that asked, that got the label of a class, and that got `_ood`.
        requests: how many were counted; `counters` has them by outcome, and those that were left out.
        rates: by event.
        ood_auroc: of the flag, as far as labels say: 1 - (missed + alarmed) / 2.
        times: milliseconds, by one of `TIMES`: the median of the windows, of which the last hour is kept.
        windows: of ten seconds, with enough requests.
        memory_mb: of the largest adapter of any replica.
        failures: how many replicas saw one, by kind.
        series: the windows in order.
    """

    version: str
    asked: int
    labelled: int
    ood: int
    requests: int
    counters: Mapping[str, int]
    rates: Mapping[TrialEvent, ObservedRate]
    ood_auroc: float | None
    times: Mapping[str, float]
    windows: int
    memory_mb: float | None
    failures: Mapping[str, int]
    series: tuple[TimePoint, ...]

    @classmethod
    def of(cls, arms: Sequence[MergedArm]) -> Self:
        """The figures of one version; `arms` are its own in the stages of a trial, in order."""
        rates = {event: ObservedRate.of(rate_of(arms, event)) for event in TRIAL_EVENTS}
        windows = [one for each in whole(arms).windows.values() for one in each if one.n >= ENOUGH_FOR_MEDIAN]
        counters = _counters(arms)
        return cls(
            version=arms[-1].version,
            asked=rates["error"].n,
            labelled=rates["wrong"].n,
            ood=rates["missed"].n,
            requests=sum(count for name, count in counters.items() if name not in get_args(LeftOut)),
            counters=counters,
            rates=rates,
            ood_auroc=_auroc(rates),
            times=_times(windows),
            windows=len(windows),
            memory_mb=max((size for arm in arms for size in arm.memory_mb.values()), default=None),
            failures=_failures(arms),
            series=_series(windows),
        )


def _counters(arms: Sequence[MergedArm]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for arm in arms:
        for counts in arm.counters.values():
            found.update(counts)
    return dict(sorted(found.items()))


def _failures(arms: Sequence[MergedArm]) -> dict[str, int]:
    failing: dict[str, set[str]] = defaultdict(set)
    for arm in arms:
        for replica, failures in arm.failures.items():
            for kind, count in failures.items():
                if count:
                    failing[kind].add(replica)
    return {kind: len(replicas) for kind, replicas in sorted(failing.items())}


def _auroc(rates: Mapping[TrialEvent, ObservedRate]) -> float | None:
    missed, alarmed = rates["missed"].value, rates["alarmed"].value
    return None if missed is None or alarmed is None else round(1 - (missed + alarmed) / 2, DIGITS)


def _times(windows: Sequence[Window]) -> dict[str, float]:
    known = {name: [time for one in windows if (time := getattr(one, name)) is not None] for name in TIMES}
    return {name: round(median(times), 3) for name, times in known.items() if times}


def _series(windows: Sequence[Window]) -> tuple[TimePoint, ...]:
    found: dict[int, list[float]] = defaultdict(list)
    for window in windows:
        if window.compute_p95 is not None:
            found[window.at].append(window.compute_p95)
    return tuple(TimePoint(at * WINDOW_SECONDS, round(median(found[at]), 3)) for at in sorted(found))

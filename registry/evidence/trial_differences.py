"""What a trial's report says of the differences between the two versions, and of their shares. No I/O.

Each difference has an interval and a p-value, to be looked at once, and e-values, to be looked at any time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

from registry.evidence.arm_stats import ShareDifference, apart, paired, sign_test
from registry.evidence.trial_figures import DIGITS, TRIAL_EVENTS, TrialEvent
from registry.evidence.trial_policy import TrialPolicy
from registry.trials.counts import UnitPairs, events_between, pairs_of, rates_of
from registry.trials.evalues import ArmEvents, EValue, Rate, between_arms
from registry.trials.latency import TrialHour, compute_ratios, latency_evidence, slower_windows, whole
from registry.trials.merge import MergedArm, MergedStage
from registry.trials.observations import WINDOW_SECONDS, ArmName
from registry.trials.sample_ratio import SampleRatio, sample_ratio

RATIO_EVENTS = ("asked", "labelled", "ood")
"""What each arm has to have its share of, so that the arms can be compared."""
_BY_LABELS: tuple[TrialEvent, ...] = ("wrong", "alarmed", "missed")
_MAX_PAIRS = 20
_ARROW = " -> "


@dataclass(frozen=True)
class Looks:
    """Evidence that may be looked at any time: e-values as natural logarithms, of the canary being worse, or better.

    Attributes:
        alpha: from 1 / alpha on it is enough to say that it is worse.
    """

    log_worse: float
    log_better: float
    alpha: float
    is_worse: bool

    @classmethod
    def of(cls, worse: EValue, better: EValue, alpha: float) -> Self:
        """Two e-values, of which one may decide."""
        return cls(worse.log_e, better.log_e, alpha, worse.rejects(alpha))


@dataclass(frozen=True)
class EventDifference:
    """An event with the canary, and with stable.

    Attributes:
        difference: of the canary's share and stable's; None while one of them has no units.
        pairs: of a shadow trial: the units of which both saw the same.
    """

    event: TrialEvent
    difference: ShareDifference | None
    looks: Looks
    pairs: UnitPairs | None = None

    @classmethod
    def of(cls, stages: Sequence[MergedStage], event: TrialEvent, policy: TrialPolicy) -> Self:
        """The difference in the stages of a trial."""
        alpha, significance = _alpha(policy, event), policy.horizon.significance
        between = events_between(stages, event)
        swapped = [ArmEvents(each.n - each.x, each.n, 1 - each.share) for each in between]
        looks = Looks.of(between_arms(between), between_arms(swapped), alpha)
        if stages[0].stage.kind == "shadow":
            pairs = pairs_of(stages, event)
            return cls(event, paired(pairs, significance), looks, pairs)
        mine, other = (rates_of(arms_of(stages, name), event) for name in ("canary", "stable"))
        return cls(event, apart(list(zip(mine, other, strict=True)), significance), looks)


@dataclass(frozen=True)
class TimeDifference:
    """The compute times of windows of ten seconds, of both versions at one replica.

    Attributes:
        ratio: how many times as long the canary computed, in the median; None without windows.
        slower, windows: in how many it took longer, of those without a tie: all that are kept.
        p_value: of the sign test.
        looks: from the windows of one hour of the trial.
    """

    ratio: float | None
    slower: int
    windows: int
    p_value: float
    looks: Looks

    @classmethod
    def of(cls, stages: Sequence[MergedStage], policy: TrialPolicy, began: float) -> Self:
        """The difference in the stages of a trial that began so many seconds after 1970."""
        canary, stable = whole(arms_of(stages, "canary")), whole(arms_of(stages, "stable"))
        ratios, every = compute_ratios(canary, stable), slower_windows(canary, stable, 1.0, None)
        hour = TrialHour.at(began, _end(canary, began))
        now = slower_windows(canary, stable, 1.0, hour)
        looks = Looks.of(
            latency_evidence(now), latency_evidence(Rate(now.n - now.x, now.n)), hour.alpha(policy.alpha.latency)
        )
        ratio = round(median(ratios), DIGITS) if ratios else None
        return cls(ratio, every.x, every.n, sign_test(every), looks)


@dataclass(frozen=True)
class UnitShare:
    """Whether each arm has its share of the units with an event, in one stage of a split trial."""

    generation: int
    event: str
    found: SampleRatio

    @property
    def share(self) -> float:
        """The canary's."""
        return self.found.x / self.found.n if self.found.n else 0.0

    def is_broken(self, *, at_the_end: bool) -> bool:
        """Whether it is not, at a look on the way or at the last one."""
        return self.found.is_broken_at_the_end if at_the_end else self.found.is_broken


@dataclass(frozen=True)
class LabelPairs:
    """What the versions of a shadow trial answered to the same images.

    Attributes:
        equal: how many times the same; `different` how many times not.
        most: the pairs of other labels that were most frequent: stable's, the canary's, how many times.
    """

    equal: int
    different: int
    most: tuple[tuple[str, str, int], ...]

    @classmethod
    def of(cls, stages: Sequence[MergedStage]) -> Self:
        """The pairs of all replicas."""
        found: Counter[tuple[str, str]] = Counter()
        for stage in stages:
            for pairs in stage.pairs.values():
                for text, count in pairs.items():
                    older, arrow, newer = text.partition(_ARROW)
                    found[(older, newer) if arrow else ("other", "labels")] += count
        equal = sum(count for (older, newer), count in found.items() if older == newer)
        differing = sorted(
            ((*pair, n) for pair, n in found.items() if pair[0] != pair[1]), key=lambda one: (-one[2], one)
        )
        return cls(equal, sum(count for _, _, count in differing), tuple(differing[:_MAX_PAIRS]))


def event_differences(stages: Sequence[MergedStage], policy: TrialPolicy) -> dict[TrialEvent, EventDifference]:
    """All of them."""
    return {event: EventDifference.of(stages, event, policy) for event in TRIAL_EVENTS}


def unit_shares(stages: Sequence[MergedStage]) -> tuple[UnitShare, ...]:
    """Those of each stage by itself; none in a shadow trial, where both versions see the same."""
    return tuple(
        UnitShare(stage.stage.generation, event, sample_ratio(events_between([stage], event)[0]))
        for stage in stages
        if stage.stage.kind != "shadow"
        for event in RATIO_EVENTS
    )


def arms_of(stages: Sequence[MergedStage], name: ArmName) -> list[MergedArm]:
    """One arm in all stages."""
    return [stage.arms[name] for stage in stages]


def _alpha(policy: TrialPolicy, event: TrialEvent) -> float:
    """What is known by labels shares the part of the accuracy (Bonferroni's inequality)."""
    return policy.alpha.accuracy / len(_BY_LABELS) if event in _BY_LABELS else policy.alpha.errors


def _end(arm: MergedArm, began: float) -> float:
    """When the newest window ended."""
    newest = max((windows[-1].at for windows in arm.windows.values() if windows), default=None)
    return began if newest is None else (newest + 0.5) * WINDOW_SECONDS

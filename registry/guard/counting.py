"""From a look at a channel to the facts of a decision: unions of units become counts, windows become signs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from registry.channels.channel import BACKWARD_ACTIONS
from registry.channels.record import Record
from registry.channels.trial import Trial
from registry.evidence.guard_rules import GuardRule
from registry.evidence.policy import Policy
from registry.guard.facts import Ages, ArmFacts, Facts, RecordFacts, StageUnits, UnitCount, WindowSigns, WindowSteps
from registry.guard.fleet_facts import breakers, fleet_facts
from registry.machine.provenance import release
from registry.trials.counts import events_between, rate_of
from registry.trials.evalues import RATIOS, ArmEvents, Rate
from registry.trials.latency import TrialHour, compute_ratios, is_late, late_windows, slower_windows, whole
from registry.trials.merge import MergedArm, MergedStage, counted_in
from registry.trials.observations import BASES, ArmName, TrialStage, Window
from registry.trials.stages import stage_of_record
from registry.usecases.observed import ChannelLook

_BETWEEN = ("error", "flagged", "wrong")
_RATIO = ("asked", "labelled", "ood")
MAX_STEPS = 1000
"""Times after the trial that are kept: a little more than the last hour, as clocks differ."""


@dataclass(frozen=True)
class _Counted:
    """The stages of a trial, in order, as the replicas have counted them, and the time after it."""

    stages: Sequence[MergedStage]
    baking: MergedStage | None

    def arms(self, name: ArmName) -> list[MergedArm]:
        """One arm in all stages of the trial."""
        return [stage.arms[name] for stage in self.stages]

    @property
    def tried(self) -> list[MergedArm]:
        """The version that is tried: in all stages of the trial, or after it."""
        return [self.baking.arms["stable"]] if self.baking else self.arms("canary")


def facts_of(look: ChannelLook, policy: Policy) -> Facts | None:
    """The facts about the trial of a channel; None if none runs that this release knows."""
    head, trial = look.head, look.head.running_trial or look.head.baking
    if trial is None or not (stages := _stages_of(look, trial)):
        return None
    counted = _count(look, stages)
    full, ages, now = policy.in_full(), _ages(look, trial), look.now.timestamp()
    hour, frozen = TrialHour.at(now - ages.trial, now), policy.frozen(head.channel, look.now)
    baking = counted.baking.arms["stable"] if counted.baking else None
    return Facts(
        release=release(),
        model=head.model,
        channel=head.channel,
        record=_record(head),
        trial=trial,
        is_baking=baking is not None,
        policy=policy.digest,
        trials=full.trials.document() if full.trials else {},
        guard=full.guard.document() if full.guard else {},
        frozen=frozen.to if frozen else "",
        grid=RATIOS,
        looked=look.now.isoformat(timespec="seconds"),
        ages=ages,
        fleet=fleet_facts(look, {stage.generation: stage for stage in stages}),
        breakers=tuple(breakers(look, counted.tried)),
        stages=_units(counted.stages),
        arms=_arms(counted),
        hour=hour.number,
        signs=() if baking else tuple(_signs(counted, full.guard_rules(), hour)),
        steps=tuple(_steps(baking, full.guard_rules())) if baking else (),
    )


# --- records ---------------------------------------------------------------------------------------------------------


def _stages_of(look: ChannelLook, trial: Trial) -> list[TrialStage]:
    """The stages that the trial's records began, in order; that of the newest is the last. Empty if it is of a kind
    that only a newer release knows."""
    records = [record for record in reversed(look.records) if record.running_trial == trial]
    stages = [stage for record in [*records, look.head] if (stage := stage_of_record(record))]
    known = stages and (stages[-1].canary or look.head.baking)
    return sorted(set(stages)) if known else []


def _record(head: Record) -> RecordFacts:
    targets = head.rollback_targets()
    return RecordFacts(
        generation=head.generation, sha256=head.sha256, action=head.action,
        stable=head.stable.version if head.stable else "", canary=head.canary.version if head.canary else "",
        target=targets[0].version if targets else "",
    )  # fmt: skip


def _ages(look: ChannelLook, trial: Trial) -> Ages:
    records = [look.head, *look.records]
    own = [record for record in records if record.decision and record.action in BACKWARD_ACTIONS]
    began = [record for record in records if record.generation >= trial.started_generation]
    last = {"last_rollback": min(map(look.age, own))} if own else {}
    return Ages(record=look.age(look.head), trial=max(map(look.age, began)), **last)


# --- units -----------------------------------------------------------------------------------------------------------


def _count(look: ChannelLook, stages: Sequence[TrialStage]) -> _Counted:
    told = [seen.document for seen in look.observations if seen.document]
    trial = [counted_in(stage, told) for stage in stages if stage.canary]
    return _Counted(trial, counted_in(stages[-1], told) if look.head.baking else None)


def _units(stages: Sequence[MergedStage]) -> tuple[StageUnits, ...]:
    between = {event: events_between(stages, event) for event in _BETWEEN}
    return tuple(
        _stage_units(each, {event: _unit_count(counts[number]) for event, counts in between.items()})
        for number, each in enumerate(stages)
    )


def _stage_units(counted: MergedStage, between: dict[str, UnitCount]) -> StageUnits:
    stage = counted.stage
    # Each stage by itself: a unit that asked in an earlier one asks in this one too.
    ratio = {event: events_between([counted], event)[0] for event in _RATIO} if stage.kind == "split" else {}
    return StageUnits(
        generation=stage.generation, kind=stage.kind, percent=stage.weight,
        share=stage.weight / 100 if stage.kind == "split" else 0.5,
        asked={name: len(arm.of("asked")) for name, arm in counted.arms.items()},
        between=between, ratio={event: _unit_count(counts) for event, counts in ratio.items()},
    )  # fmt: skip


def _arms(counted: _Counted) -> dict[str, ArmFacts]:
    found = {"stable": _arm(counted.arms("stable")), "canary": _arm(counted.arms("canary"))}
    return found | ({"baking": _arm(counted.tried)} if counted.baking else {})


def _arm(arms: Sequence[MergedArm]) -> ArmFacts:
    memory = [megabytes for arm in arms for megabytes in arm.memory_mb.values()]
    return ArmFacts(
        version=arms[-1].version if arms else "",
        rates={event: _unit_count(rate_of(arms, event)) for event in BASES},
        memory_mb=max(memory, default=None),
    )


def _unit_count(counts: Rate | ArmEvents) -> UnitCount:
    return UnitCount(x=counts.x, n=counts.n)


# --- windows ---------------------------------------------------------------------------------------------------------


def _signs(counted: _Counted, rules: Iterable[GuardRule], hour: TrialHour) -> Iterator[WindowSigns]:
    """What the rules on latency need, each bound once."""
    canary, stable = whole(counted.arms("canary")), whole(counted.arms("stable"))
    for metric, bound in _bounds(rules):
        if metric == "latency_ratio_p95":
            signs, values = slower_windows(canary, stable, bound, hour), compute_ratios(canary, stable)
        else:
            signs, values = late_windows(canary, stable, bound, hour), _latencies(canary)
        value = round(median(values), 6) if values else None
        yield WindowSigns(metric=metric, bound=bound, x=signs.x, n=signs.n, seen=len(values), value=value)


def _steps(arm: MergedArm, rules: Iterable[GuardRule]) -> Iterator[WindowSteps]:
    """What the rules need after the trial: for errors and for each bound of the latency the windows of all replicas."""
    errors = _by_time(arm, lambda window: (window.errors, window.asked))
    failed, asked = sum(x for x, _ in errors), sum(n for _, n in errors)
    yield WindowSteps(metric="error_rate", bound=0.0, steps=errors, value=failed / asked if asked else None)
    values = _latencies(arm)
    for metric, bound in _bounds(rules):
        if metric == "latency_ms_p95":
            late = _by_time(arm, lambda window, bound=bound: _late(window, bound))  # type: ignore[misc]
            # All replicas have the same load at a time, so they are no more than one sign.
            signs = tuple((int(2 * x > n), 1) for x, n in late)
            yield WindowSteps(metric=metric, bound=bound, steps=signs, value=median(values) if values else None)


def _bounds(rules: Iterable[GuardRule]) -> list[tuple[str, float]]:
    return sorted({(rule.metric, rule.bound) for rule in rules if rule.family == "latency"})


def _by_time(arm: MergedArm, count: Callable[[Window], tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The counts of all replicas together for each time, in order, without the times without any."""
    found: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for windows in arm.windows.values():
        for window in windows:
            x, n = count(window)
            found[window.at] = found[window.at][0] + min(x, n), found[window.at][1] + n
    return tuple(found[at] for at in sorted(found) if found[at][1])[-MAX_STEPS:]


def _late(window: Window, bound: float) -> tuple[int, int]:
    late = is_late(window, bound, window.asked)
    return int(bool(late)), int(late is not None)


def _latencies(arm: MergedArm) -> list[float]:
    every = (window for windows in arm.windows.values() for window in windows)
    return [window.request_p95 for window in every if window.request_p95 is not None and _late(window, 0.0)[1]]

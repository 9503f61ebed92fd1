"""The observations of all replicas together. Their order, repetition and age do not change what comes out.

Of a replica the larger count, and of units the union: so an older object of a replica beside a newer one adds nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from registry.trials.observations import BASES, FIRST, ArmCounts, ArmName, Observations, StageCounts, TrialStage, Window
from registry.trials.units import Units


@dataclass
class MergedArm:
    """What one version did in a stage, at all replicas.

    Attributes:
        units: by event. Of a unit that several replicas saw, `first_…` is told by the one with the least id.
        counters, failures, windows, memory_mb: by replica; windows by time.
    """

    version: str
    units: dict[str, Units] = field(default_factory=dict)
    counters: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: dict[str, dict[str, int]] = field(default_factory=dict)
    windows: dict[str, tuple[Window, ...]] = field(default_factory=dict)
    memory_mb: dict[str, float] = field(default_factory=dict)

    def of(self, event: str) -> Units:
        """The units with this event."""
        return self.units.get(event, Units())


@dataclass
class MergedStage:
    """A stage at all replicas.

    Attributes:
        replicas: that have counted in it, in order.
        contradicting: replicas that are left out, since they tell of other versions or another weight.
        pairs: by replica.
    """

    stage: TrialStage
    arms: dict[ArmName, MergedArm]
    replicas: tuple[str, ...]
    contradicting: tuple[str, ...] = ()
    pairs: dict[str, dict[str, int]] = field(default_factory=dict)


def merged(observations: Iterable[Observations]) -> dict[TrialStage, MergedStage]:
    """All stages that any replica tells of, in order. Which of them are true, only records say: see `counted_in`."""
    every = list(observations)
    stages = {counts.stage for each in every for counts in each.stages}
    return {stage: counted_in(stage, every) for stage in sorted(stages)}


def counted_in(stage: TrialStage, observations: Iterable[Observations]) -> MergedStage:
    """What was counted in a stage that a record began. Replicas that tell of another one by its number hide nothing of
    it, however many they are."""
    told, others = defaultdict[str, list[StageCounts]](list), set[str]()
    for each in observations:
        for counts in each.stages:
            if counts.stage == stage:
                told[each.replica].append(counts)
            elif (counts.trial, counts.generation) == (stage.trial, stage.generation):
                others.add(each.replica)
    return _stage(stage, told, others)


def _stage(stage: TrialStage, told: Mapping[str, list[StageCounts]], others: set[str]) -> MergedStage:
    replicas = {name: told[name] for name in sorted(told)}
    names: list[ArmName] = ["stable", "canary"] if stage.canary else ["stable"]
    return MergedStage(
        stage=stage,
        arms={
            arm: _arm(stage.version(arm), {name: [one.arms[arm] for one in ones] for name, ones in replicas.items()})
            for arm in names
        },
        replicas=tuple(replicas),
        contradicting=tuple(sorted(others - set(replicas))),
        pairs={name: _largest(one.pairs for one in ones) for name, ones in replicas.items()},
    )


def _arm(version: str, told: Mapping[str, list[ArmCounts]]) -> MergedArm:
    arm = MergedArm(version)
    for replica, ones in told.items():  # in the order of their ids
        units = _union(one.units for one in ones)
        for event, base in BASES.items():
            units[FIRST + event] = units.get(FIRST + event, Units()) - arm.of(base)
        arm.units = _union((arm.units, units))
        arm.counters[replica] = _largest(one.counters for one in ones)
        arm.failures[replica] = _largest(one.failures for one in ones)
        arm.windows[replica] = _windows(window for one in ones for window in one.windows)
        if (memory := _memory(ones)) is not None:
            arm.memory_mb[replica] = memory
    return arm


def _union(sets: Iterable[Mapping[str, Units]]) -> dict[str, Units]:
    found: dict[str, Units] = {}
    for each in sets:
        for event, units in each.items():
            found[event] = found.get(event, Units()) | units
    return found


def _largest(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for each in counts:
        found |= Counter(each)
    return dict(found)


def _windows(windows: Iterable[Window]) -> tuple[Window, ...]:
    """One for each time: of several, the one with most requests."""
    found: dict[int, Window] = {}
    for window in windows:
        known = found.get(window.at)
        if known is None or _order(window) > _order(known):
            found[window.at] = window
    return tuple(found[at] for at in sorted(found))


def _order(window: Window) -> tuple[float, ...]:
    times = (window.compute_p50, window.compute_p95, window.request_p50, window.request_p95)
    return (window.n, window.asked, window.errors, *(-1.0 if time is None else time for time in times))


def _memory(ones: Iterable[ArmCounts]) -> float | None:
    return max((one.memory_mb for one in ones if one.memory_mb is not None), default=None)

"""From merged units to the counts that the statistics take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from registry.trials.evalues import ArmEvents, Rate
from registry.trials.merge import MergedArm, MergedStage
from registry.trials.observations import BASES, FIRST
from registry.trials.split import UNITS
from registry.trials.units import Units


def rate_of(arms: Sequence[MergedArm], event: str) -> Rate:
    """How many of the units of an event's base had it at the first time, as bounds on rates take it.

    It is a share of requests, one of each unit. The share of units that had the event any time would grow with their
    requests: a unit that asks a hundred times at 0.1% errors has had one with a probability of 10%.

    Args:
        arms: one version's, in the stages of a trial, in order. A unit counts in the first one that has it.
        event: one of `registry.trials.observations.BASES`.
    """
    rates = rates_of(arms, event)
    return Rate(sum(rate.x for rate in rates), sum(rate.n for rate in rates))


def rates_of(arms: Sequence[MergedArm], event: str) -> list[Rate]:
    """The same for each stage by itself: what the units add that are in no stage before it."""
    found, before = list[Rate](), Units()
    for arm in arms:
        new = arm.of(BASES[event]) - before
        found.append(Rate(len(arm.of(FIRST + event) & new), len(new)))
        before = before | new
    return found


@dataclass(frozen=True)
class UnitPairs:
    """Units of which both versions saw the same: how many had an event with the canary only, with stable only, with
    both, of `n`."""

    canary_only: int
    stable_only: int
    both: int
    n: int


def pairs_of(stages: Sequence[MergedStage], event: str) -> UnitPairs:
    """The pairs of a shadow trial, each unit at the first time, as `rate_of` takes it."""
    canary_only, stable_only, both, before = 0, 0, 0, Units()
    for stage in stages:
        canary, stable = stage.arms["canary"], stage.arms["stable"]
        new = (canary.of(BASES[event]) & stable.of(BASES[event])) - before
        mine, other = canary.of(FIRST + event) & new, stable.of(FIRST + event) & new
        canary_only, stable_only = canary_only + len(mine - other), stable_only + len(other - mine)
        both, before = both + len(mine & other), before | new
    return UnitPairs(canary_only, stable_only, both, len(before))


def events_between(stages: Sequence[MergedStage], event: str) -> list[ArmEvents]:
    """The units of the canary and of both arms with an event, as a comparison of the arms takes them.

    Split: units of each arm, folded (see `folded`). Shadow: both versions saw the same, so only units count where
    exactly one of them had the event, and the canary's share of these is a half.

    Args:
        stages: those of a trial, in order, without the time after it. A unit counts in the first one in which it had
            the event: the canary keeps its keys, so what is wrong with a client is no news in the next stage.

    Raises:
        ValueError: no canary runs in one of the stages.
    """
    found, before = list[ArmEvents](), Units()
    for stage in stages:
        if "canary" not in stage.arms:
            raise ValueError(f"no canary runs in generation {stage.stage.generation}")
        canary, stable = stage.arms["canary"].of(event) - before, stage.arms["stable"].of(event) - before
        found.append(_pairs(stage, event, before) if stage.stage.kind == "shadow" else _arms(stage, canary, stable))
        before = before | canary | stable
    return found


def _arms(stage: MergedStage, canary: Units, stable: Units) -> ArmEvents:
    share = stage.stage.weight / 100
    x = folded(canary, share)
    return ArmEvents(x, x + folded(stable, 1 - share), share)


def _pairs(stage: MergedStage, event: str, before: Units) -> ArmEvents:
    canary, stable = stage.arms["canary"], stage.arms["stable"]
    base = BASES.get(event, event)
    both = (canary.of(base) & stable.of(base)) - before
    bad, good = canary.of(event) & both, stable.of(event) & both
    return ArmEvents(len(bad - good), len(bad ^ good), 0.5)


def folded(units: Units, share: float) -> int:
    """How many units there are of an arm with this share, if it has this share of the 65,536 units for itself.

    Keys are assigned to arms and to units apart from each other, so either arm can fill all units: with many keys their
    numbers would not be as their shares, but equal. So neighbouring units become one, in either arm as many as make all
    units as full as the other arm's: what many keys cost is then the same share of both.
    """
    slots = max(1, round(share * UNITS))
    return len({unit * slots // UNITS for unit in units})

"""What a replica should serve, and which versions it needs in memory for that."""

from __future__ import annotations

from registry.channels.record import Record
from registry.machine import clock
from registry.serving.residents import Residents
from registry.serving.routing import Serving
from registry.trials.stages import known_trial
from registry.versions.pointer import Pointer


def canary_of(record: Record) -> Pointer | None:
    """The version on trial in a record; None if there is none, or its trial is of a kind that this release does not
    know: then stable answers all."""
    return record.canary if known_trial(record) else None


def next_serving(goal: Record, serving: Serving | None, residents: Residents) -> Serving | None:
    """What is to be served from now on; None for what is served already.

    A record is served as soon as its stable version is in memory, and it is known whether its canary will be. If that
    fails, stable answers all; the canary joins when a later load succeeds.
    """
    stable, canary = residents.get(goal.stable) if goal.stable else None, canary_of(goal)
    if stable is None:
        return None
    tried = residents.get(canary) if canary else None
    if serving is None or goal.generation > serving.record.generation:
        waits = canary is not None and not residents.is_settled(canary)
        return None if waits else Serving(goal, stable, clock.timestamp(), tried)
    joins = serving.record is goal and tried is not None and serving.canary is None
    return Serving(goal, stable, serving.since, tried) if joins else None


def needed_versions(goal: Record, serving: Serving | None, previous: Pointer | None) -> list[Pointer]:
    """The versions that should be in memory, the most urgent first.

    The goal's versions and its rollback target; the same of the record that is served now, so that a rollback is fast
    while the goal is loading or can't be loaded; and the version served before (`previous`), so that undoing a rollback
    is fast as well.
    """
    records = [goal, *([serving.record] if serving else [])]
    return [pointer for pointer in (*(one for record in records for one in _versions(record)), previous) if pointer]


def problems_of(goal: Record | None, residents: Residents) -> list[str]:
    """Why versions of the goal are not in memory, or what is wrong with them there."""
    return [problem for pointer in (_versions(goal) if goal else ()) if (problem := residents.problem(pointer))]


def trial_problem(serving: Serving | None, residents: Residents) -> str:
    """Why this replica takes no part in the trial; empty if it does, or if there is none."""
    canary = serving.record.canary if serving else None
    if serving is None or canary is None or serving.canary is not None:
        return ""
    if canary_of(serving.record) is None:
        return f"stable answers all: this release does not know the trial of {canary.version}"
    return f"stable answers all: {residents.problem(canary) or f'{canary.version} is being loaded'}"


def is_rollback_ready(goal: Record | None, serving: Serving | None, residents: Residents) -> bool:
    """Whether the goal is served, and its next rollback target is in memory."""
    if goal is None or serving is None or serving.record is not goal or not goal.rollback_targets():
        return False
    return residents.get(goal.rollback_targets()[0]) is not None


def _versions(record: Record) -> list[Pointer]:
    wanted = (record.stable, canary_of(record), *record.rollback_targets()[:1])
    return [pointer for pointer in wanted if pointer]

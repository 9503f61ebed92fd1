"""From heartbeats and observations to what a decision has to know of the replicas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import get_args

from registry.guard.facts import Breaker, FleetFacts, NamedReplicas
from registry.serving.fleet import EVERY, GONE_AFTER, SILENT_AFTER, Heartbeat
from registry.trials.merge import MergedArm
from registry.trials.observations import Failure, Observations, TrialStage
from registry.usecases.observed import ChannelLook, SeenObject

FRESH = 3.5 * EVERY
"""Seconds for which observations are fresh in a trial; after it they are written six times less often."""
FRESH_AFTER_TRIAL = 6 * FRESH
_KINDS = get_args(Failure)
CRASHES = 3
"""Replicas of one host that have died since the stage began: then its process crashes again and again."""


def fleet_facts(look: ChannelLook, stages: Mapping[int, TrialStage]) -> FleetFacts:
    """What is known of the replicas; `stages` are those of the trial by generation."""
    live = _live(look)
    fresh = FRESH_AFTER_TRIAL if look.head.baking else FRESH
    told = {seen.id for seen in look.observations if seen.document and seen.age <= fresh}
    silent = [seen for seen in look.heartbeats if seen.document and SILENT_AFTER < seen.age <= GONE_AFTER]
    heard = [seen for seen in look.heartbeats if seen.age <= GONE_AFTER]
    unread = {seen.id for seen in heard if seen.problem} | {seen.id for seen in look.observations if seen.problem}
    unread |= {f"{look.left_out} beyond the most that are read"} if look.left_out else set()
    return FleetFacts(
        live=len(live),
        silent=len(silent),
        unobserved=NamedReplicas.of({each.id for each in live if each.id not in told or each.observations_problem}),
        apart=NamedReplicas.of({each.id for each in live if each.trial_problem}),
        behind=NamedReplicas.of({each.id for each in live if each.generation < look.head.generation}),
        contradicting=NamedReplicas.of(_contradicting(look.observations, stages)),
        unread=NamedReplicas.of(unread),
    )


def _contradicting(observations: Iterable[SeenObject[Observations]], stages: Mapping[int, TrialStage]) -> set[str]:
    return {
        seen.id
        for seen in observations
        if seen.document
        for counts in seen.document.stages
        if counts.generation in stages and counts.stage != stages[counts.generation]
    }


def breakers(look: ChannelLook, tried: Sequence[MergedArm]) -> Iterator[Breaker]:
    """The failures that live replicas report of the version that is tried, and crash loops."""
    live = {each.id for each in _live(look)}
    failed: dict[str, set[str]] = defaultdict(set)
    for arm in tried:
        for replica, failures in arm.failures.items():
            for kind, count in failures.items():
                if count and replica in live and kind in _KINDS:
                    failed[kind].add(replica)
    for kind in sorted(failed):
        yield Breaker(kind=kind, replicas=NamedReplicas.of(failed[kind]), of=len(live))
    if crashing := _crashing(look):
        hosts = {each.host for each in _live(look)} | crashing
        yield Breaker(kind="crash_loop", replicas=NamedReplicas.of({host[:120] for host in crashing}), of=len(hosts))


def _crashing(look: ChannelLook) -> set[str]:
    """Hosts on which replicas of the newest record died, again and again: a process that ends in order deletes its
    heartbeat."""
    age, died = look.age(look.head), defaultdict[str, int](int)
    for seen in look.heartbeats:
        if seen.document and SILENT_AFTER < seen.age <= age and seen.document.newest >= look.head.generation:
            died[seen.document.host] += 1
    return {host for host, count in died.items() if count >= CRASHES}


def _live(look: ChannelLook) -> list[Heartbeat]:
    return [seen.document for seen in look.heartbeats if seen.document and seen.age <= SILENT_AFTER]

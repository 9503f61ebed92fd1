"""From heartbeats and observations to what a decision has to know of the replicas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, get_args

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
"""Deaths on one host since the stage began, one after the other: then its process crashes again and again."""


def fleet_facts(look: ChannelLook, stages: Mapping[int, TrialStage]) -> FleetFacts:
    """What is known of the replicas; `stages` are those of the trial by generation."""
    live = _live(look)
    fresh = FRESH_AFTER_TRIAL if look.head.baking else FRESH
    told = {seen.id for seen in look.observations if seen.document and seen.age <= fresh}
    silent = [seen for seen in look.heartbeats if seen.document and SILENT_AFTER < seen.age <= GONE_AFTER]
    heard = [seen for seen in look.heartbeats if seen.age <= GONE_AFTER]
    unread = {seen.id for seen in heard if seen.problem} | {seen.id for seen in look.observations if seen.problem}
    return FleetFacts(
        live=len(live),
        silent=len(silent),
        unobserved=NamedReplicas.of({each.id for each in live if each.id not in told or each.observations_problem}),
        apart=NamedReplicas.of({each.id for each in live if each.trial_problem}),
        behind=NamedReplicas.of({each.id for each in live if each.generation < look.head.generation}),
        contradicting=NamedReplicas.of(_contradicting(look.observations, stages)),
        unread=NamedReplicas.of(unread),
        left_out=look.left_out,
        records=NamedReplicas.of({str(generation) for generation in look.unread}),
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
        yield Breaker(kind=kind, replicas=NamedReplicas.of(failed[kind]), of=_voters(look))
    if crashing := _crashing(look):
        yield Breaker(
            kind="crash_loop", replicas=NamedReplicas.of({host[:120] for host in crashing}),
            of=len(_hosts(look)) + len(_unread_heartbeats(look)),
        )  # fmt: skip


def _crashing(look: ChannelLook) -> set[str]:
    """Hosts on which a process that follows the newest record died and was started anew, again and again.

    A replica that is only silent may be cut off from the store: it counts as dead once one that started after its last
    heartbeat beats in its place.
    """
    lives: dict[str, list[_Life]] = defaultdict(list)
    for seen in look.heartbeats:
        if (life := _life(seen, look)) is not None and seen.document:
            lives[seen.document.host].append(life)
    return {host for host, found in lives.items() if _deaths(found) >= CRASHES}


class _Life(NamedTuple):
    """From when until when a replica was heard of, in seconds before the look."""

    last: float
    began: float


def _life(seen: SeenObject[Heartbeat], look: ChannelLook) -> _Life | None:
    """None for one that does not follow the newest record, or does not say when it started."""
    said = seen.document
    if said is None or seen.age > look.age(look.head) or said.newest < look.head.generation:
        return None
    try:
        lasted = datetime.fromisoformat(said.when).astimezone(UTC) - datetime.fromisoformat(said.started).astimezone(
            UTC
        )
    except (ValueError, OverflowError):
        return None
    return _Life(seen.age, seen.age + max(0.0, lasted.total_seconds()))


def _deaths(lives: Iterable[_Life]) -> int:
    """How many lives of one host ended one after the other, each before the next began, and the last before one began
    that goes on."""
    ended = list[_Life]()
    newest = float("inf")
    for life in sorted(lives, reverse=True):  # the one that ended first comes first
        if life.last <= SILENT_AFTER:
            newest = min(newest, life.began)
        elif not ended or life.began < ended[-1].last:
            ended.append(life)
    return sum(life.last > newest for life in ended)


def _hosts(look: ChannelLook) -> set[str]:
    return {seen.document.host for seen in look.heartbeats if seen.document and seen.age <= GONE_AFTER}


def _voters(look: ChannelLook) -> int:
    """Live replicas; the silent ones of hosts from which nothing is heard, as they may be only cut off; and those whose
    heartbeats can't be read. Else the one that can be read would be "one of one", and speak for all."""
    live = _live(look)
    heard = {each.host for each in live}
    silent = [seen for seen in look.heartbeats if SILENT_AFTER < seen.age <= GONE_AFTER]
    cut_off = sum(seen.document is not None and seen.document.host not in heard for seen in silent)
    return len(live) + cut_off + len(_unread_heartbeats(look))


def _unread_heartbeats(look: ChannelLook) -> list[str]:
    return [seen.id for seen in look.heartbeats if seen.document is None and seen.age <= GONE_AFTER]


def _live(look: ChannelLook) -> list[Heartbeat]:
    return [seen.document for seen in look.heartbeats if seen.document and seen.age <= SILENT_AFTER]

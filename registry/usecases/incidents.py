"""The notes that the guard wrote about its rollbacks, and what replicas have counted since each change of a channel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from registry.channels.record import Record
from registry.errors import BadInput, ObjectNotFound
from registry.names import check_channel
from registry.store import layout
from registry.trials.days import AnswersOfDay, answers_of_days
from registry.trials.merge import MergedStage, counted_in
from registry.trials.stages import stage_of_record
from registry.usecases.observed import ChannelLook, WatchedChannel
from registry.wiring import Wiring

MAX_NOTE = 256 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


def incident_note(wiring: Wiring, channel: str, decision: str) -> str:
    """The note on what a decision took back, as Markdown of its writer; empty if there is none.

    Raises:
        BadInput: it is not the digest of a decision.
        BadManifest: the note is larger than any that is written.
        StoreUnreachable, StoreDenied: it can't be read.
    """
    if not _DIGEST.fullmatch(decision):
        raise BadInput(f"{decision[:80]!r} is not the digest of a decision")
    try:
        found = wiring.store.get(layout.incident(wiring.model, check_channel(channel), decision), MAX_NOTE)
    except ObjectNotFound:
        return ""
    return found.body.decode("utf-8", "replace")


@dataclass(frozen=True)
class Counts:
    """What replicas have counted for a channel, as far as it is kept.

    Attributes:
        stages: since each of its records, the newest first.
        days: by day and version, over all stages.
    """

    stages: tuple[tuple[Record, MergedStage], ...] = ()
    days: tuple[AnswersOfDay, ...] = ()


def counts_of(wiring: Wiring, channel: str, records: Sequence[Record]) -> Counts:
    """What replicas have counted for a channel; `records` are its newest ones, newest first.

    Raises:
        StoreUnreachable, StoreDenied: it can't be read.
    """
    if not records:
        return Counts()
    view = WatchedChannel(wiring.store, wiring.channel(channel))
    look = view.with_replicas(ChannelLook(records[0], (), wiring.store.now(), {}))
    told = [seen.document for seen in look.observations if seen.document]
    stages = [(record, stage_of_record(record)) for record in records]
    found = [(record, counted_in(stage, told)) for record, stage in stages if stage]
    return Counts(tuple((record, stage) for record, stage in found if stage.replicas), tuple(answers_of_days(told)))

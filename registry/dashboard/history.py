"""Every change of the channels, and what was served at any time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from registry.api import Registry
from registry.channels.readable_log import RefusedRecord
from registry.channels.record import Record
from registry.dashboard import text
from registry.dashboard.kept import FOR_EVER, KeptReads
from registry.errors import StoreDenied
from registry.evidence.check_lines import check_summary
from registry.names import CHANNELS
from registry.parallel import in_parallel
from registry.usecases.pages import verdict_of
from registry.usecases.status import readable_history

RECENT = 100
MAX_RECORDS = 5_000
"""Records of a channel that are read at most."""


@dataclass(frozen=True)
class HistoryEntry:
    """One change of a channel.

    Attributes:
        at: None where the record does not say when.
        stable, canary: what was served from then on; empty for none.
        verdict: what the gates said, in short; empty where they were not asked.
        overruled: whether it was forced.
        decision: digest of the guard's decision that made it; empty if a person did.
        unread: why it may not be read.
    """

    channel: str
    generation: int
    at: datetime | None
    action: str
    stable: str
    canary: str
    share: str
    who: str
    reason: str
    verdict: str = ""
    overruled: bool = False
    decision: str = ""
    unread: str = ""


@dataclass(frozen=True)
class ChannelHistory:
    """The newest changes of a channel, newest first; `is_cut`: there are older ones."""

    channel: str
    entries: tuple[HistoryEntry, ...]
    is_cut: bool


@dataclass(frozen=True)
class Stretch:
    """A time in which a channel did not change what it served. `role`: `stable` or `canary`."""

    channel: str
    role: str
    version: str
    begin: datetime
    end: datetime
    share: str = ""


@dataclass(frozen=True)
class ServedAt:
    """What a channel served at a moment.

    Attributes:
        entry: the change that had been made last; None if there was none, or it is not known.
        is_known: False where the records that were read do not reach back so far.
    """

    channel: str
    entry: HistoryEntry | None
    is_known: bool


def read_history(registry: Registry, kept: KeptReads, limit: int = RECENT) -> tuple[ChannelHistory, ...]:
    """The newest changes of all channels.

    Raises:
        BadManifest, BrokenChain: see `Registry.history`.
        StoreUnreachable, StoreDenied: the store does not answer.
    """
    return tuple(_channel_history(registry, kept, channel, limit) for channel in CHANNELS)


def stretches(histories: Iterable[ChannelHistory], now: datetime) -> list[Stretch]:
    """What was served when. Where a clock went back, a stretch ends where the next one begins."""
    found: list[Stretch] = []
    for history in histories:
        timed = [(entry, entry.at) for entry in reversed(history.entries) if entry.at and not entry.unread]
        for role in ("stable", "canary"):
            found += _merged(history.channel, role, timed, now)
    return found


def served_at(history: ChannelHistory, moment: datetime) -> ServedAt:
    """What a channel served at a moment, by the times that the records say."""
    for entry in history.entries:
        if entry.at and entry.at <= moment:
            return ServedAt(history.channel, entry, is_known=True)
    return ServedAt(history.channel, None, is_known=not history.is_cut)


def _merged(channel: str, role: str, timed: Sequence[tuple[HistoryEntry, datetime]], now: datetime) -> list[Stretch]:
    """Stretches of one role; neighbours that served the same are one."""
    found: list[Stretch] = []
    for number, (entry, at) in enumerate(timed):
        version, share = (entry.stable, "") if role == "stable" else (entry.canary, entry.share)
        end = max(at, timed[number + 1][1] if number + 1 < len(timed) else now)
        if not version:
            continue
        before = found[-1] if found else None
        if before and before.end == at and (before.version, before.share) == (version, share):
            found[-1] = Stretch(channel, role, version, before.begin, end, share)
        else:
            found.append(Stretch(channel, role, version, at, end, share))
    return found


def _channel_history(registry: Registry, kept: KeptReads, channel: str, limit: int) -> ChannelHistory:
    limit = min(limit, MAX_RECORDS)
    log = readable_history(registry.wiring, channel, limit)

    def entry(found: Record | RefusedRecord) -> HistoryEntry:
        if isinstance(found, RefusedRecord):
            return HistoryEntry(channel, found.generation, None, "", "", "", "", "", "", unread=found.why)
        return entry_of(found, *_verdict(found, kept, partial(_judged, registry, found)))

    entries = in_parallel(entry, log.entries)
    return ChannelHistory(channel, tuple(entries), is_cut=bool(entries) and entries[-1].generation > 1)


def entry_of(record: Record, verdict: str = "", overruled: bool = False) -> HistoryEntry:
    """A record as it is shown."""
    return HistoryEntry(
        record.channel, record.generation, text.moment(record.when), record.action,
        record.stable.version if record.stable else "", record.canary.version if record.canary else "",
        record.trial_share, record.who, record.reason, verdict, overruled, record.decision or "",
    )  # fmt: skip


def _verdict(record: Record, kept: KeptReads, judged: Callable[[], tuple[str, bool]]) -> tuple[str, bool]:
    """What the gates said, and whether they were overruled. Verdicts bear their digest as a name, and never change."""
    if record.verdict is None or record.action in ("rollback", "abort"):
        return "", False
    return kept.get(("verdict", record.verdict), judged, FOR_EVER)


def _judged(registry: Registry, record: Record) -> tuple[str, bool]:
    try:
        found = verdict_of(registry.wiring, record)
    except StoreDenied:
        return "its verdict may not be read", False
    if found is None:
        return "its verdict is missing", False
    return f"{found.outcome}: {check_summary(found)}", bool(found.forced)

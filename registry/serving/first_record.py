"""The record that a replica begins with: the newest of the log, or the one that its machine keeps; and its version."""

from __future__ import annotations

from collections.abc import Callable

from registry.channels.record import Record
from registry.errors import ChannelEmpty, StoreUnreachable
from registry.serving.freshness import Freshness
from registry.serving.kept_state import StateKeeper
from registry.serving.log_reader import LogReader
from registry.serving.pinned import FollowedLog
from registry.serving.residents import Residents
from registry.versions.pointer import Pointer

_SECONDS = 30.0
"""For the first read of the log where nothing is kept; before it the client of the store is made."""


def read_first(log: LogReader, keeper: StateKeeper | None, freshness: Freshness, seconds: float) -> Record | None:
    """The newest record; the kept one if there is one and the store has not answered for so many seconds.

    Raises:
        StoreUnreachable: the log can't be read, and what this machine keeps is too old, damaged or not complete.
        UloraError: the log can't be read.
    """
    if keeper is None:
        return log.read(_SECONDS)
    kept = keeper.find()
    try:
        return log.read_persistently(seconds) if kept else log.read(_SECONDS)
    except StoreUnreachable as error:
        if kept is None:
            raise StoreUnreachable(f"{error}; {keeper.problem}", hint=error.hint) from error
        freshness.begin_without_store(kept.age, keeper.begin_with(kept), error)
    record = kept.served()
    log.resume(record)
    return record


def not_empty(record: Record | None, channel: FollowedLog, check_model: Callable[[], None]) -> tuple[Record, Pointer]:
    """The record that was read first, and what it makes stable.

    Args:
        check_model: see `Live`.

    Raises:
        ChannelEmpty: the channel serves no version yet.
        NotFound: there is no store, or no such model in it.
    """
    if record is None or record.stable is None:
        check_model()
        raise ChannelEmpty(
            f"{channel.model} {channel.name} serves no version yet",
            hint=f"`ulora promote VERSION --channel {channel.name}` makes one stable",
        )
    return record, record.stable


def load_first(
    residents: Residents, first: Record, stable: Pointer, read: Callable[[], Record | None], every: float
) -> tuple[Record, Pointer]:
    """Load what a record makes stable. A version that is withdrawn meanwhile must not be the first to answer: so the
    log is read on, and what the newest record makes stable is loaded instead.

    Args:
        read: returns the newest record, None if it can't be read now.
        every: seconds between two reads.

    Returns:
        The newest record that was read, and its stable version, which is in memory.

    Raises:
        LoadFailed, MissingBlob, CorruptBlob, …: see `Residents.load_first`.
    """
    newest = first, stable

    def look() -> Pointer:
        nonlocal newest
        found = read()
        if found and found.stable:
            newest = found, found.stable
        return newest[1]

    residents.load_first(stable, look, every)
    return newest

"""A channel's log without the records that the store refuses one by one: a writer may have encrypted one with its own
key, or it is listed and not there. The chain is checked where both sides of a link may be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from registry.channels.channel import Channel, check_begin, check_link
from registry.channels.record import Record
from registry.errors import BrokenChain, StoreDenied
from registry.parallel import in_parallel
from registry.store.refusals import MAY_NOT, as_listed


@dataclass(frozen=True)
class RefusedRecord:
    """A record that may not be read, and what the store says."""

    channel: str
    generation: int
    why: str

    def __str__(self) -> str:
        return f"generation {self.generation} of {self.channel} {MAY_NOT}: {self.why}"


@dataclass(frozen=True)
class ReadableLog:
    """The entries of a log, newest first."""

    entries: tuple[Record | RefusedRecord, ...]

    @property
    def records(self) -> list[Record]:
        """Those that may be read."""
        return [each for each in self.entries if isinstance(each, Record)]

    @property
    def refused(self) -> list[RefusedRecord]:
        """Those that may not."""
        return [each for each in self.entries if isinstance(each, RefusedRecord)]

    @property
    def newest(self) -> list[Record]:
        """The records above the first that may not be read."""
        found: list[Record] = []
        for entry in self.entries:
            if isinstance(entry, RefusedRecord):
                break
            found.append(entry)
        return found


def read_log(channel: Channel, limit: int | None = None) -> ReadableLog:
    """The log of a channel, or its newest entries; see `Channel.history`, which refuses where one record is refused.

    Raises:
        BadManifest: a record does not follow the format.
        BrokenChain: a record is missing, or its sha256 is not the `previous` of the next one.
    """

    def read(generation: int) -> Record | RefusedRecord:
        try:
            with as_listed():
                return channel.read(generation)
        except StoreDenied as error:
            return RefusedRecord(channel.name, generation, str(error))

    entries = in_parallel(read, channel.generations(limit))
    for newer, older in pairwise(entries):
        _check_link(older, newer)
    if entries and limit is None:
        _check_begin(entries[-1])
    return ReadableLog(tuple(entries))


def _check_link(older: Record | RefusedRecord, newer: Record | RefusedRecord) -> None:
    if isinstance(older, Record) and isinstance(newer, Record):
        check_link(older, newer)
    elif older.generation + 1 != newer.generation:
        raise BrokenChain(f"generation {newer.generation} of {newer.channel} follows generation {older.generation}")


def _check_begin(first: Record | RefusedRecord) -> None:
    if isinstance(first, Record):
        check_begin(first)
    elif first.generation != 1:
        raise BrokenChain(f"the log of {first.channel} begins at generation {first.generation} instead of 1")

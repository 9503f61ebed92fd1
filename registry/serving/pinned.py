"""One version instead of a channel: what a replica that follows none reads in place of a channel's log."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from registry.channels.record import Record
from registry.errors import ObjectNotFound
from registry.serving import events
from registry.versions.pointer import Pointer

_FIRST = 1
"""The generation of the only record."""
_LONGEST = 64
"""Characters of the name of a channel in a record."""
_NO_CHANNEL = "pinned "
"""How the name begins that stands in place of a channel's: no channel has a blank in its name."""


class FollowedLog(Protocol):
    """What a replica reads of what it follows: a channel's log, or one that stands in its place."""

    model: str
    name: str

    def head(self) -> Record | None:
        """The newest record, None if there is none."""

    def next(self, generation: int) -> Record | None:
        """The record after a generation, None if there is none yet."""

    def read(self, generation: int) -> Record:
        """One record. Raises: ObjectNotFound: there is no such generation."""


class HasNote(Protocol):
    """Something that may have a problem to tell."""

    @property
    def note(self) -> str:
        """The problem; empty if there is none."""


@dataclass(frozen=True)
class FoundVersion:
    """What a name is bound to, and what speaks against the version; empty if nothing does."""

    pointer: Pointer
    warning: str = ""


class PinnedVersion:
    """A log of one record, which names one version and never changes. Its bytes follow from the version alone, so that
    what a machine keeps for a start without the store is known again.

    Attributes:
        note: what speaks against the version, by the last look at it; empty if nothing does.
    """

    def __init__(self, model: str, version: str, look: Callable[[], FoundVersion]) -> None:
        """`look` asks the store; it is called at the start, and with every look of a replica that lists a log."""
        self.model = model
        self.name = pinned_name(version)
        self.note = ""
        self._look = look

    def head(self) -> Record:
        """The only record.

        Raises:
            VersionNotFound, NotFound, StoreUnreachable, StoreDenied, BadManifest: the version can't be looked up.
        """
        found = self._look()
        if found.warning and found.warning != self.note:
            events.pinned_warning(found.pointer.version, found.warning)
        self.note = found.warning
        return self._record(found.pointer)

    def next(self, generation: int) -> None:
        """Nothing ever follows."""

    def read(self, generation: int) -> Record:
        """The only record. Raises: ObjectNotFound: another one is asked for; or as `head`."""
        if generation != _FIRST:
            raise ObjectNotFound(f"{self.name} has one record, not a generation {generation}")
        return self.head()

    def _record(self, pointer: Pointer) -> Record:
        return Record(
            format=1, model=self.model, channel=self.name, generation=_FIRST, action="pin", stable=pointer,
            who="", when="", nonce=pointer.manifest_sha256,
        )  # fmt: skip


def pinned_name(version: str) -> str:
    """What stands in place of a channel's name; of a long version name its digest."""
    name = f"{_NO_CHANNEL}{version}"
    return name if len(name) <= _LONGEST else f"{_NO_CHANNEL}{hashlib.sha256(version.encode()).hexdigest()[:32]}"


def is_pinned(record: Record) -> bool:
    """Whether a record is that of one version, and of no channel."""
    return record.channel.startswith(_NO_CHANNEL)


def notes_of(parts: Iterable[HasNote], log: FollowedLog) -> str:
    """What the parts of a replica have to tell, and what speaks against the version that it is pinned to."""
    notes = [*(part.note for part in parts), log.note if isinstance(log, PinnedVersion) else ""]
    return "; ".join(note for note in notes if note)

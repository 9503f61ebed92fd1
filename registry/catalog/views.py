"""What MLflow is to show of the channels, read from their logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from registry.catalog.version_id import VersionId
from registry.channels.channel import Channel
from registry.channels.record import Record
from registry.errors import BadManifest, BrokenChain, IntegrityError, StoreDenied
from registry.names import CHANNELS

NoteProblem = Callable[[str, Exception], None]
"""Called with a channel, and why it can't be read."""


def note_nothing(channel: str, error: Exception) -> None:
    """A `NoteProblem` where others report it."""


@dataclass(frozen=True)
class ChannelView:
    """What the mirror needs of one channel.

    Attributes:
        generation: the generation that was read; 0 for an empty channel.
        stable, canary: what it serves, and the version on trial.
        formerly: versions that were stable or canary in it, withdrawn ones too; None if only its newest record was
            read, and then a version with a stage in MLflow that no channel serves counts as formerly promoted.
        stack: the versions that rollbacks go to.
        problem: why the channel can't be read; what MLflow shows of it is not changed.
    """

    channel: str
    generation: int
    stable: VersionId | None = None
    canary: VersionId | None = None
    formerly: frozenset[VersionId] | None = frozenset()
    stack: frozenset[VersionId] = frozenset()
    problem: str = ""

    @property
    def named(self) -> frozenset[VersionId]:
        """What it serves, the version on trial, and where rollbacks go."""
        return self.stack.union(each for each in (self.stable, self.canary) if each)

    @property
    def known(self) -> frozenset[VersionId]:
        """All versions that were read here."""
        return self.named.union(self.formerly or ())

    @classmethod
    def of(cls, channel: str, records: Sequence[Record]) -> Self:
        """The view of a channel from its newest records, newest first."""
        head = records[0] if records else None
        return cls(
            channel=channel,
            generation=head.generation if head else 0,
            stable=VersionId.of(head.stable) if head and head.stable else None,
            canary=VersionId.of(head.canary) if head and head.canary else None,
            formerly=frozenset(
                VersionId.of(each) for record in records for each in (record.stable, record.canary) if each
            ),
            stack=frozenset(map(VersionId.of, head.stack if head else ())),
        )


@dataclass(frozen=True)
class ChannelViews:
    """Reads the views of all mirrored channels. The problem of one that can't be read is passed to `note`."""

    channel: Callable[[str], Channel]

    def from_logs(self, note: NoteProblem) -> list[ChannelView]:
        """From the whole logs; from the newest record where a log is broken, or a record may not be read."""

        def view(name: str) -> ChannelView:
            try:
                return ChannelView.of(name, self.channel(name).history())
            except (BrokenChain, BadManifest, StoreDenied) as error:
                note(name, error)
                return self._from_newest_record(name, note)

        return [view(name) for name in CHANNELS]

    def from_newest_records(self, note: NoteProblem) -> list[ChannelView]:
        """From the newest records only; the cost does not grow with the logs."""
        return [self._from_newest_record(name, note) for name in CHANNELS]

    def _from_newest_record(self, name: str, note: NoteProblem) -> ChannelView:
        try:
            head = self.channel(name).head()
        except (IntegrityError, StoreDenied) as error:
            note(name, error)
            return ChannelView(name, generation=0, problem=f"{name} can't be read: {error}")
        return replace(ChannelView.of(name, [head] if head else []), formerly=None)

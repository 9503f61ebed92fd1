"""What a channel's log says of one version: whether it is served, on trial, withdrawn, and since when. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from registry.catalog.version_id import VersionId
from registry.channels.record import Record

Role = Literal["stable", "trial", "withdrawn", "rollback target", "former"]


@dataclass(frozen=True)
class Standing:
    """What one version is in a channel.

    Attributes:
        record: the change that made it that; None where the records that were read do not reach back to it.
        promoted: the change that last made it stable or a canary; None as for `record`.
        share: how much of the traffic takes part in its trial: `10%`, `shadow 25%`; empty for other roles.
    """

    channel: str
    role: Role
    record: Record | None = None
    promoted: Record | None = None
    share: str = ""


def standing(channel: str, records: Sequence[Record], version: VersionId) -> Standing | None:
    """What a version is in a channel, by the channel's newest records, newest first; None if they do not name it."""
    if not records:
        return None
    head = records[0]
    promoted = _entry(records, version)
    if head.stable and VersionId.of(head.stable) == version:
        return Standing(channel, "stable", _since(records, version), promoted)
    if head.canary and VersionId.of(head.canary) == version:
        return Standing(channel, "trial", promoted, promoted, head.trial_share)
    if version.version in head.withdrawn:
        return Standing(channel, "withdrawn", _withdrawal(records, version.version), promoted)
    if version in map(VersionId.of, head.rollback_targets()):
        return Standing(channel, "rollback target", promoted, promoted)
    return Standing(channel, "former", promoted, promoted) if promoted else None


def _served(record: Record, version: VersionId) -> bool:
    return version in [VersionId.of(each) for each in (record.stable, record.canary) if each]


def _entry(records: Sequence[Record], version: VersionId) -> Record | None:
    """The newest record with a verdict that serves a version, and before which it was not served."""
    for record, before in zip(records, [*records[1:], None], strict=True):
        if record.verdict and _served(record, version) and (before is None or not _served(before, version)):
            return record if before or record.generation == 1 else None
    return None


def _since(records: Sequence[Record], version: VersionId) -> Record | None:
    """The record from which on a version has been stable."""
    for record, before in zip(records, [*records[1:], None], strict=True):
        if before is None:
            return record if record.generation == 1 else None
        if before.stable is None or VersionId.of(before.stable) != version:
            return record
    return None


def _withdrawal(records: Sequence[Record], name: str) -> Record | None:
    """The record that withdrew a version."""
    for record, before in zip(records, [*records[1:], None], strict=True):
        if before is None:
            return record if record.generation == 1 else None
        if name not in before.withdrawn:
            return record
    return None

"""What the pages of versions in MLflow say, read from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from registry.catalog.standing import Standing, standing
from registry.catalog.version_id import VersionId
from registry.catalog.version_page import VersionPage
from registry.channels.readable_log import ReadableLog, RefusedRecord, read_log
from registry.channels.record import Record
from registry.errors import IntegrityError, NotFound, StoreDenied
from registry.evidence.results import Evidence
from registry.evidence.verdict import Verdict
from registry.names import CHANNELS, VersionName
from registry.parallel import in_parallel
from registry.store.refusals import MAY_NOT
from registry.usecases.judge import judge
from registry.versions.bindings import Binding
from registry.wiring import Wiring

_SHOWN = 3
RECENT = 50
"""So many records are read where the whole log would take too long."""


@dataclass(frozen=True)
class Pages:
    """Makes the pages of a model's versions by the channels' records, newest first. What is damaged is left out; where
    the store refuses something, a page would say less than is known, and is not made.

    Attributes:
        records: by channel; of a log with refused records those above them.
        refused: the records that may not be read.
    """

    wiring: Wiring
    records: Mapping[str, Sequence[Record]]
    refused: Sequence[RefusedRecord] = ()

    @classmethod
    def read(cls, wiring: Wiring, limit: int | None = None) -> Self:
        """By the whole logs, or their newest records."""

        def read(channel: str) -> ReadableLog:
            try:
                return read_log(wiring.channel(channel), limit)
            except IntegrityError:
                return ReadableLog(())

        logs = dict(zip(CHANNELS, in_parallel(read, CHANNELS), strict=True))
        refused = [record for log in logs.values() for record in log.refused]
        return cls(wiring, {channel: log.newest for channel, log in logs.items()}, refused)

    def page(self, binding: Binding) -> VersionPage:
        """The page of a version.

        Raises:
            MissingBlob, CorruptBlob, BadManifest: its manifest can't be read.
            StoreDenied: a record, its evidence, or a verdict may not be read.
        """
        if self.refused:
            raise StoreDenied(f"its page stays as it is: {self.refused[0]}")
        manifest = self.wiring.bindings.manifest(binding.pointer)
        standings = self.standings(binding)
        kept = self.wiring.ledger.kept_evidence(VersionName.parse(binding.version))
        if kept.refused:
            raise StoreDenied(f"its page stays as it is: {kept.refused[0]} {MAY_NOT}")
        everything = sorted(kept.found.values(), key=lambda one: one.order)
        evidence = tuple(each for each in everything if each.content_sha256 == binding.content_sha256)
        return VersionPage(manifest, standings, self._verdicts(binding.version, standings, evidence), evidence)

    def standings(self, binding: Binding) -> tuple[Standing, ...]:
        """What a version is in each channel."""
        found = [standing(channel, records, VersionId.of(binding)) for channel, records in self.records.items()]
        return tuple(each for each in found if each)

    def moved(self) -> list[VersionId]:
        """The versions that the newest record of each channel or the one before it serves."""
        found = [
            VersionId.of(pointer)
            for records in self.records.values()
            for record in records[:2]
            for pointer in (record.stable, record.canary)
            if pointer
        ]
        return list(dict.fromkeys(found))

    def _verdicts(
        self, version: str, standings: Sequence[Standing], evidence: Sequence[Evidence]
    ) -> tuple[Verdict, ...]:
        """Those that it was promoted with; where there is none, what the gates say now of what was measured."""
        by_channel = {each.channel: self._promoted_with(each) for each in standings}
        for channel in CHANNELS:
            if evidence and by_channel.get(channel) is None:
                with suppress(IntegrityError):
                    by_channel[channel] = judge(self.wiring, version, channel)
        return tuple(verdict for channel in CHANNELS if (verdict := by_channel.get(channel)))

    def _promoted_with(self, each: Standing) -> Verdict | None:
        return verdict_of(self.wiring, each.promoted) if each.promoted else None


def verdict_of(wiring: Wiring, record: Record) -> Verdict | None:
    """The verdict that a change was made with; None if it has none, or it is missing or damaged.

    Raises:
        StoreDenied: it may not be read.
    """
    if record.verdict is None:
        return None
    try:
        return wiring.ledger.verdict(record.verdict)
    except (NotFound, IntegrityError):
        return None


def standings(wiring: Wiring, version: str) -> tuple[Standing, ...]:
    """What a version is in each channel; see `Registry.standings`."""
    return Pages.read(wiring).standings(wiring.bindings.get(VersionName.parse(version)))


def forced(wiring: Wiring, records: Sequence[Record], refused: dict[int, str] | None = None) -> dict[int, str]:
    """The records that were made by force, and the rules that were overruled; see `Registry.forced`.

    Args:
        refused: gets the generations whose verdicts may not be read, so that nobody can say, and why.

    Raises:
        StoreDenied: a verdict may not be read, and there is no `refused`.
    """

    def read(record: Record) -> Verdict | None:
        try:
            return verdict_of(wiring, record)
        except StoreDenied as error:
            if refused is None:
                raise
            refused[record.generation] = f"its verdict {MAY_NOT}: {error}"
            return None

    pairs = zip(records, in_parallel(read, records), strict=True)
    return {record.generation: _overruled(verdict) for record, verdict in pairs if verdict and verdict.forced}


def _overruled(verdict: Verdict) -> str:
    refused = verdict.refusals
    more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
    return "; ".join(check.reason for check in refused[:_SHOWN]) + more

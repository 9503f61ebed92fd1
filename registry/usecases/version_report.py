"""Everything that the store says of one version, for its report. MLflow is not asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from registry.catalog.standing import Standing
from registry.catalog.version_id import VersionId
from registry.channels.record import Record
from registry.errors import BadPolicy, IntegrityError, NotFound, NotNow, ObjectNotFound, StoreDenied, first_line
from registry.evidence.approvals import Approval
from registry.evidence.results import Evidence
from registry.evidence.ticks import Tick, standing_ticks
from registry.evidence.trial_report import TrialReport
from registry.evidence.verdict import Verdict
from registry.formats import canonical
from registry.formats.html import HtmlTable
from registry.names import CHANNELS, VersionName
from registry.store import layout
from registry.store.refusals import MAY_NOT
from registry.usecases.diff import VersionDiff, diff
from registry.usecases.judge import judge
from registry.usecases.options import ReportOptions
from registry.usecases.pages import Pages, verdict_of
from registry.versions.bindings import Binding
from registry.versions.manifest import Manifest
from registry.wiring import Wiring

MAX_RECORDS = 200
"""Changes that are told of a version in one channel: the newest."""
_MAX_TRIALS = 2
_MAX_NOTE = 64 * 1024
_MAX_REASONS, _MAX_REASON = 20, 1000
_UNREADABLE = (NotFound, IntegrityError, StoreDenied, NotNow, BadPolicy)
"""What may keep a part of a report from being told; the others are."""


@dataclass(frozen=True)
class ActedDecision:
    """What the guard concluded where it moved a channel, in short. `note` is what it wrote about the incident."""

    channel: str
    generation: int
    sha256: str
    action: str
    to: str
    reasons: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class VersionReport(HtmlTable):
    """What the store says of a version.

    Attributes:
        signatures: digests of its stored signatures; whether they are trusted is not looked at.
        forgotten: who forgot it, when and why; empty if nobody did.
        before: how it differs from the version that it replaced or was made from; None without such a version.
        evidence: what was measured of its content, newest first.
        verdicts: those that it entered a channel with; for channels that it never entered what the gates say now.
        records: the changes that made it what it is in each channel, oldest first.
        trials: those of its trials of which the counts are still kept.
        decisions: those of the guard that moved a channel to or from it.
        ticks: the lines of its checklists that people ticked, by channel.
        unread: what could not be read, and why.
    """

    manifest: Manifest
    manifest_sha256: str
    signatures: tuple[str, ...]
    forgotten: str
    before: VersionDiff | None
    evidence: tuple[Evidence, ...]
    verdicts: tuple[Verdict, ...]
    standings: tuple[Standing, ...]
    records: tuple[Record, ...]
    trials: tuple[TrialReport, ...]
    decisions: tuple[ActedDecision, ...]
    approvals: tuple[Approval, ...]
    ticks: tuple[Tick, ...]
    unread: tuple[str, ...] = ()


def report(wiring: Wiring, version: str, limit: int | None = None) -> VersionReport:
    """Report a version; see `Registry.report`.

    Args:
        limit: so many records of each channel are read; the whole logs if None.
    """
    binding = wiring.bindings.get(VersionName.parse(version))
    manifest = wiring.bindings.manifest(binding.pointer)
    return _Reporter(wiring, binding, manifest, Pages.read(wiring, limit)).report()


@dataclass(frozen=True)
class _Reporter:
    """Reads what there is to tell of a version; what can't be read is noted."""

    wiring: Wiring
    binding: Binding
    manifest: Manifest
    pages: Pages
    unread: list[str] = field(default_factory=list)

    def report(self) -> VersionReport:
        about = {channel: _about(records, self._id) for channel, records in self.pages.records.items()}
        records = [record for each in about.values() for record in each]
        self.unread.extend(map(str, self.pages.refused))
        evidence = self._evidence()
        return VersionReport(
            manifest=self.manifest,
            manifest_sha256=self.binding.manifest_sha256,
            signatures=self._signatures(),
            forgotten=self._forgotten(),
            before=self._before(),
            evidence=evidence,
            verdicts=tuple(self._verdicts(records, bool(evidence))),
            standings=self.pages.standings(self.binding),
            records=tuple(records),
            trials=tuple(self._trials(records)),
            decisions=tuple(self._decision(record) for record in records if record.decision),
            approvals=self._approvals(),
            ticks=self._ticks(),
            unread=tuple(self.unread),
        )

    @property
    def _id(self) -> VersionId:
        return VersionId.of(self.binding)

    @contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        """Note what can't be read, and go on."""
        try:
            yield
        except _UNREADABLE as error:
            self.unread.append(f"{what}: {first_line(error)}")

    def _signatures(self) -> tuple[str, ...]:
        with self._noted("signatures"):
            return tuple(sorted(map(canonical.sha256, self.wiring.signatures.of(self.manifest.version))))
        return ()

    def _forgotten(self) -> str:
        with self._noted("whether it was forgotten"):
            note = self.wiring.forgotten.find(self.manifest.version)
            return f"by {note.who}, {note.when}" + f": {note.reason}" * bool(note.reason) if note else ""
        return ""

    def _evidence(self) -> tuple[Evidence, ...]:
        with self._noted("evidence"):
            kept = self.wiring.ledger.kept_evidence(self.manifest.name)
            self.unread.extend(f"{key} {MAY_NOT if key in kept.refused else 'is damaged'}" for key in kept.unread)
            ours = [one for one in kept.found.values() if one.content_sha256 == self.manifest.content_sha256]
            return tuple(sorted(ours, key=lambda one: one.order, reverse=True))
        return ()

    def _before(self) -> VersionDiff | None:
        parent = self.manifest.parent.version if self.manifest.parent else ""
        older = replaced_by(self.pages.records, self._id) or parent
        if older and older != self.manifest.version:
            with self._noted(f"{older}, which it is compared with"):
                return diff(self.wiring, older, self.manifest.version)
        return None

    def _verdicts(self, records: Sequence[Record], is_measured: bool) -> Iterator[Verdict]:
        for channel in reversed(CHANNELS):
            entered = [each for each in records if each.channel == channel and each.judged == self.manifest.version]
            found = self._entered_by(entered[-1]) if entered else self._judged(channel) if is_measured else None
            if found:
                yield found

    def _entered_by(self, record: Record) -> Verdict | None:
        with self._noted(f"verdict of {record.channel}"):
            found = verdict_of(self.wiring, record)
            if found is None:
                self.unread.append(f"verdict {record.verdict} of {record.channel} is missing or damaged")
            return found
        return None

    def _judged(self, channel: str) -> Verdict | None:
        with self._noted(f"gates of {channel}"):
            return judge(self.wiring, self.manifest.version, channel)
        return None

    def _trials(self, records: Sequence[Record]) -> Iterator[TrialReport]:
        from registry.usecases.canary_report import report as report_trial

        ids = dict.fromkeys(
            (record.channel, record.trial.id)
            for record in reversed(records)
            if record.running_trial and record.trial and self._is_canary(record)
        )
        for channel, trial in list(ids)[:_MAX_TRIALS]:
            # Of most trials nothing is kept any more, which is as it should be: the records still tell of them.
            with suppress(*_UNREADABLE):
                yield report_trial(self.wiring, channel, ReportOptions(trial=trial, log=False)).report

    def _is_canary(self, record: Record) -> bool:
        return record.canary is not None and VersionId.of(record.canary) == self._id

    def _decision(self, record: Record) -> ActedDecision:
        sha256 = str(record.decision)
        said: dict[str, Any] = {}
        with self._noted(f"decision {sha256[:12]}"):
            said = read_decision(self.wiring, record.channel, sha256)
        return ActedDecision(
            record.channel, record.generation, sha256, _text(said, "action"), _text(said, "to"),
            _texts(said.get("reasons")), self._incident(record.channel, sha256),
        )  # fmt: skip

    def _incident(self, channel: str, sha256: str) -> str:
        key = layout.incident(self.manifest.model, channel, sha256)
        # Only what was taken back has a note.
        with self._noted(f"note on incident {sha256[:12]}"), suppress(ObjectNotFound):
            return self.wiring.store.get(key, _MAX_NOTE).body.decode("utf-8", "replace")
        return ""

    def _approvals(self) -> tuple[Approval, ...]:
        with self._noted("approvals"):
            every = self.wiring.ledger.approvals(self.manifest.name)
            return tuple(one for one in every if one.content_sha256 == self.manifest.content_sha256)
        return ()

    def _ticks(self) -> tuple[Tick, ...]:
        with self._noted("ticks"):
            every, content = self.wiring.ledger.ticks(self.manifest.name), self.manifest.content_sha256
            channels = dict.fromkeys(one.channel for one in every)
            standing = [standing_ticks(every, channel, content) for channel in channels]
            return tuple(tick for by_line in standing for ticks in by_line.values() for tick in ticks)
        return ()


def replaced_by(logs: Mapping[str, Sequence[Record]], version: VersionId) -> str:
    """The version that was stable when this one came first, in production or else staging; empty if none was."""
    found = (replaced_in(logs.get(channel, ()), version) for channel in reversed(CHANNELS))
    return next(filter(None, found), "")


def replaced_in(records: Sequence[Record], version: VersionId) -> str:
    """The version that was stable in a channel when this one came first, by the channel's records, newest first; empty
    if none was. A version that never came would replace what is stable now."""
    came = [number for number, record in enumerate(records) if _role(record, version)[:2] != (False, None)]
    before = records[came[-1] + 1 :][:1] if came else records[:1]
    names = [record.stable.version for record in before if record.stable]
    return names[0] if names and names[0] != version.version else ""


def read_decision(wiring: Wiring, channel: str, sha256: str | None) -> dict[str, Any]:
    """A decision of the guard as plain JSON; the layers above know its class.

    Raises:
        ObjectNotFound: there is none.
        IntegrityError: it is not a JSON object, or does not hash to its name.
    """
    key = layout.decision(wiring.model, channel, str(sha256))
    body = wiring.store.get(key).body
    if canonical.sha256(body) != sha256:
        raise IntegrityError(f"{key} does not hash to its name")
    return canonical.decode(body, key)


def _about(records: Sequence[Record], version: VersionId) -> list[Record]:
    """The records that changed what a version is in a channel, oldest first."""
    pairs = zip_longest(records, records[1:])
    found = [
        record
        for record, before in pairs
        if record
        and (before or record.generation == 1)  # else nobody knows here what it was before
        and _role(record, version) != (_role(before, version) if before else (False, None, False))
    ]
    return found[:MAX_RECORDS][::-1]


def _role(record: Record, version: VersionId) -> tuple[bool, float | None, bool]:
    """Whether a version is stable, its weight as the canary, and whether it is withdrawn."""
    weight = record.canary.weight if record.canary and VersionId.of(record.canary) == version else None
    is_stable = record.stable is not None and VersionId.of(record.stable) == version
    return is_stable, weight, version.version in record.withdrawn


def _text(document: Mapping[str, Any], name: str) -> str:
    return str(document.get(name, ""))[:_MAX_REASON]


def _texts(value: object) -> tuple[str, ...]:
    every = value if isinstance(value, list) else []
    return tuple(str(each)[:_MAX_REASON] for each in every[:_MAX_REASONS])

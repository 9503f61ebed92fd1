"""Evidence, verdicts and passes in the store: create-only objects, named by their own digests."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Generic, Literal, TypeVar

from pydantic import Field

from registry.channels.channel import Channel
from registry.channels.record import Record
from registry.errors import BadManifest, IntegrityError, ObjectNotFound, StoreDenied
from registry.evidence.approvals import Approval
from registry.evidence.gates import Past
from registry.evidence.outcomes import MAX_STORED, ImageOutcome, unpacked
from registry.evidence.policy import Policy
from registry.evidence.results import Evidence
from registry.evidence.ticks import Tick
from registry.evidence.verdict import Verdict
from registry.evidence.verdict_inputs import RecordName
from registry.formats import canonical
from registry.formats.document import Document, Sha256
from registry.names import VersionName
from registry.store import layout
from registry.store.objects import ObjectStore
from registry.store.refusals import as_listed, read_each
from registry.store.storage import list_folder

Kind = TypeVar("Kind", bound=Document)


class Passed(Document):
    """A note that a record made a version stable in a channel. It counts only if the log has that record."""

    LIMIT: ClassVar[int] = 64 * 1024

    format: Literal[1]
    version: str = Field(max_length=120)
    content_sha256: Sha256
    generation: int = Field(ge=1)
    record_sha256: Sha256


@dataclass(frozen=True)
class ReadDocuments(Generic[Kind]):
    """The documents in a folder of the store.

    Attributes:
        found: those that could be read and hash to their names, by key.
        unread: the keys of the others: they are damaged, of a later format, or S3 can't give them.
        refused: those of them that the store refuses to give, or lists and does not have: they may be whole.
    """

    found: dict[str, Kind]
    unread: tuple[str, ...]
    refused: tuple[str, ...] = ()


class Ledger:
    """The evidence, verdicts and passes of one model."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._model = model

    def add(self, evidence: Evidence, outcomes: bytes = b"") -> str:
        """Store evidence, and before it the outcomes that it names; return its digest."""
        if evidence.outcomes:
            self._store.create(layout.outcomes(self._model, evidence.version, evidence.outcomes), outcomes)
        self._store.create(layout.evidence(self._model, evidence.version, evidence.sha256), evidence.to_bytes())
        return evidence.sha256

    def evidence(self, version: VersionName) -> list[Evidence]:
        """All evidence of a version, oldest first, without what this release can't read."""
        return sorted(self.kept_evidence(version).found.values(), key=lambda one: one.order)

    def kept_evidence(self, version: VersionName) -> ReadDocuments[Evidence]:
        """All evidence of a version, and the keys of what this release can't read."""
        return self._read_named(layout.evidence(self._model, str(version)), Evidence)

    def outcomes(self, evidence: Evidence) -> tuple[ImageOutcome, ...]:
        """What a version answered for each image of a measurement.

        None if that was not kept, or can't be read: then the gates say that it is missing.
        """
        if not evidence.outcomes:
            return ()
        key = layout.outcomes(self._model, evidence.version, evidence.outcomes)
        try:
            data = self._store.get(key, MAX_STORED).body
            return unpacked(data, key) if canonical.sha256(data) == evidence.outcomes else ()
        except (ObjectNotFound, BadManifest, StoreDenied):
            return ()

    def benchmarks(self, version: VersionName) -> tuple[str, ...]:
        """The names of the benchmarks that a version has evidence from."""
        return tuple(sorted({one.benchmark for one in self.evidence(version)}))

    def add_approval(self, approval: Approval) -> str:
        """Store a person's yes; return its digest."""
        self._store.create(layout.approval(self._model, approval.version, approval.sha256), approval.to_bytes())
        return approval.sha256

    def approvals(self, version: VersionName) -> list[Approval]:
        """Every yes to a version, without what this release can't read."""
        return list(self._read_named(layout.approval(self._model, str(version)), Approval).found.values())

    def add_tick(self, tick: Tick) -> str:
        """Store what a person says of a line of a checklist; return its digest."""
        self._store.create(layout.tick(self._model, tick.version, tick.sha256), tick.to_bytes())
        return tick.sha256

    def ticks(self, version: VersionName) -> list[Tick]:
        """What people said of a version's checklist, without what this release can't read."""
        return list(self._read_named(layout.tick(self._model, str(version)), Tick).found.values())

    def add_verdict(self, verdict: Verdict, policy: Policy) -> str:
        """Store a verdict, also one that refuses, and before it the policy that it names; return its digest."""
        self._store.create(layout.policy(self._model, policy.digest), policy.to_bytes())
        self._store.create(layout.verdict(self._model, verdict.sha256), verdict.to_bytes())
        return verdict.sha256

    def verdict(self, sha256: str) -> Verdict:
        """A verdict by its digest.

        Raises:
            ObjectNotFound: there is no verdict with this digest.
        """
        key = layout.verdict(self._model, sha256)
        return Verdict.parse(self._store.get(key, Verdict.LIMIT).body, key)

    def verdicts(self) -> list[Verdict]:
        """Every verdict, without what this release can't read."""
        return list(self._read_named(layout.verdicts(self._model), Verdict).found.values())

    def verdict_digests(self, prefix: str, limit: int) -> list[str]:
        """The digests of verdicts that begin so, in their order, at most `limit`."""
        listed = islice(self._store.list(layout.verdicts(self._model) + prefix), limit)
        return [layout.stem(info.key) for info in listed]

    def add_pass(self, record: Record, content_sha256: str) -> None:
        """Note that `record`, which is about to be committed, makes its version stable in the channel."""
        if record.stable is None:
            return
        name = record.stable.version
        note = Passed(
            format=1, version=name, content_sha256=content_sha256, generation=record.generation,
            record_sha256=record.sha256,
        )  # fmt: skip
        self._store.create(layout.passed(self._model, record.channel, name, record.sha256), note.to_bytes())

    def past(self, channel: Channel, version: VersionName) -> Past | None:
        """Proof that a version was stable in a channel: by the newest of its passes whose record is in the log.

        None if there is none, or the log can't be read.
        """
        notes = self._read_all(layout.passed(self._model, channel.name, str(version)), Passed).found
        for note in sorted(notes.values(), key=lambda note: note.generation, reverse=True):
            if _is_in_log(channel, note):
                try:
                    head = channel.head()
                except IntegrityError:
                    return None
                if head is None:
                    return None
                return past_of(channel.name, note, head)
        return None

    def _read_named(self, folder: str, kind: type[Kind]) -> ReadDocuments[Kind]:
        """The documents in a folder. One that does not hash to its name is damaged: it counts as not read."""
        kept = self._read_all(folder, kind)
        found = {key: document for key, document in kept.found.items() if document.sha256 == layout.stem(key)}
        return ReadDocuments(found, tuple(sorted((*kept.unread, *(kept.found.keys() - found.keys())))), kept.refused)

    def _read_all(self, folder: str, kind: type[Kind]) -> ReadDocuments[Kind]:
        """The documents in a folder, whatever they hash to. Where those that can't be read would have shown something,
        it is missing, and the gates say so.

        Raises:
            StoreDenied: all are refused.
        """

        refused: set[str] = set()

        def read(key: str) -> Kind | None:
            try:
                with as_listed():
                    return kind.parse(self._store.get(key, kind.LIMIT).body, key)
            except BadManifest:
                return None
            except StoreDenied:
                refused.add(key)
                raise

        keys = [info.key for info in list_folder(self._store, folder)]
        read_ones = dict(zip(keys, read_each(read, keys), strict=True))
        found = {key: document for key, document in read_ones.items() if document is not None}
        return ReadDocuments(found, tuple(key for key in keys if key not in found), tuple(sorted(refused)))


def past_of(channel: str, note: Passed, head: Record) -> Past:
    """What a note in the log proves, as of the newest record of its channel."""
    return Past(
        channel, note.content_sha256, note.record_sha256, withdrawn=note.version in head.withdrawn,
        generation=note.generation, head=RecordName(generation=head.generation, sha256=head.sha256),
    )  # fmt: skip


def _is_in_log(channel: Channel, note: Passed) -> bool:
    try:
        return channel.read(note.generation).sha256 == note.record_sha256
    except (ObjectNotFound, IntegrityError):
        return False

"""Which documents belong to an audit: from records and versions on, everything that they rest on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import Any

from registry.errors import CorruptBlob, IntegrityError, MissingBlob, NotFound, first_line
from registry.names import CHANNELS, is_channel_name, is_version_name
from registry.progress import Say, say_nothing
from registry.store import layout
from registry.usecases.audit_documents import AuditDocuments
from registry.wiring import Wiring

_MAX_LISTED = 100_000
Wanted = Callable[[Mapping[str, Any]], bool]
"""Whether a record is one that is asked for."""


@dataclass
class AuditWalk:
    """Chooses the documents of one archive. What is damaged is chosen all the same, and noted.

    Attributes:
        channels: the first and the last generation of each log that is in the archive without a gap.
        versions: those of which everything is in it.
    """

    wiring: Wiring
    documents: AuditDocuments
    say: Say = say_nothing
    channels: dict[str, tuple[int, int]] = field(default_factory=dict)
    versions: dict[str, None] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)

    @property
    def _model(self) -> str:
        return self.wiring.model

    # --- logs --------------------------------------------------------------------------------------------------------

    def log(self, channel: str, wanted: Wanted, *, after: bool = False) -> list[dict[str, Any]]:
        """Choose the records from the one before the first that is wanted to the last one, and what they rest on.

        Args:
            after: also the record that follows: it says how what is wanted ended.
        """
        folder = layout.channel(self._model, channel)
        listed = islice(self.wiring.store.list(folder), _MAX_LISTED)
        keys = sorted((info.key for info in listed if layout.is_record(folder, info.key)), reverse=True)
        self.say(f"reading {len(keys)} records of {channel}")
        self.documents.read(keys)
        records = {layout.generation(key): self.documents.json(key) for key in keys}
        found = [generation for generation, record in records.items() if wanted(record)]
        if not found:
            return []
        first, last = max(min(records), min(found) - 1), min(max(records), max(found) + after)
        self.channels[channel] = (first, last)
        span = range(first, last + 1)
        for generation in span:
            self._record(channel, generation)
        self._check_links(channel, span)
        return [records.get(generation, {}) for generation in span]

    def _record(self, channel: str, generation: int) -> None:
        key = layout.record(self._model, channel, generation)
        if not self.documents.choose(key):
            return
        record = self.documents.json(key)
        for version in served(record):
            self.version(version)
        if digest := _digest(record.get("verdict")):
            self._verdict(digest)
        if digest := _digest(record.get("decision")):
            self.documents.choose(layout.decision(self._model, channel, digest))
            self.documents.choose(layout.incident(self._model, channel, digest), optional=True)

    def _check_links(self, channel: str, span: Sequence[int]) -> None:
        keys = [layout.record(self._model, channel, generation) for generation in span]
        for older, newer in pairwise(keys):
            kept = self.documents.kept(older)
            if kept and self.documents.kept(newer) and self.documents.json(newer).get("previous") != kept.sha256:
                self.documents.damaged[newer] = "it does not name the record before it by its digest"

    # --- what records rest on ----------------------------------------------------------------------------------------

    def _verdict(self, sha256: str) -> None:
        key = layout.verdict(self._model, sha256)
        if self._is_done(key) or not self.documents.choose(key):
            return
        verdict = self.documents.json(key)
        inputs, version, stable = _part(verdict, "inputs"), str(verdict.get("version")), str(verdict.get("stable"))
        if digest := _digest(verdict.get("policy")):  # earlier releases kept neither the policy nor the inputs
            self.documents.choose(layout.policy(self._model, digest), optional=not inputs)
        for digest in _digests(inputs, "evidence"):
            self._evidence(version, digest)
        for digest in _digests(inputs, "stable_evidence"):
            self._evidence(stable, digest)
        for digest in _digests(inputs, "approvals"):
            self.documents.choose(layout.approval(self._model, version, digest))
        for name in (version, stable):
            if is_version_name(name):
                self.version(name)
        self._named_records(verdict, inputs)

    def _named_records(self, verdict: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        """The records of which a verdict was made, wherever they stand: without what they rest on."""
        for name, channel in (("head", verdict.get("channel")), ("past", "staging"), ("past_head", "staging")):
            generation = _part(inputs, name).get("generation")
            if isinstance(generation, int) and 0 < generation < 10**12 and is_channel_name(str(channel)):
                self.documents.choose(layout.record(self._model, str(channel), generation))

    def _evidence(self, version: str, sha256: str) -> None:
        key = layout.evidence(self._model, version, sha256)
        if not is_version_name(version) or self._is_done(key) or not self.documents.choose(key):
            return
        if digest := _digest(self.documents.json(key).get("outcomes")):
            self.documents.choose(layout.outcomes(self._model, version, digest))

    # --- versions ----------------------------------------------------------------------------------------------------

    def version(self, name: str) -> None:
        """Choose a version's binding, manifest and signatures."""
        key = layout.version(self._model, name)
        if not is_version_name(name) or self._is_done(key) or not self.documents.choose(key):
            return
        if digest := _digest(self.documents.json(key).get("manifest_sha256")):
            self.documents.choose(layout.blob(digest))
        self._folder(layout.signature(self._model, name))
        self.documents.choose(layout.forgotten(self._model, name), optional=True)

    def whole_version(self, name: str) -> None:
        """Choose everything that is kept of a version, but its files."""
        if name in self.versions:
            return
        self.versions[name] = None
        self.say(f"reading the documents of {name}")
        self.version(name)
        for key in self._folder(layout.evidence(self._model, name)):
            self._evidence(name, layout.stem(key))
        for folder in (layout.outcomes, layout.approval, layout.tick):
            self._folder(folder(self._model, name))
        for channel in dict.fromkeys((*CHANNELS, *self.channels)):
            self._folder(layout.passed(self._model, channel, name))

    def files(self, name: str) -> None:
        """Choose the files of a version, each verified.

        Raises:
            DiskFull, StoreUnreachable: they can't be read.
        """
        try:
            manifest = self.wiring.manifest(name)
        except (NotFound, IntegrityError):  # which is noted already
            return
        self.say(f"reading the {len(manifest.files)} files of {name}")
        forgotten = self.documents.json(layout.forgotten(self._model, name))
        for file in manifest.files:
            key = layout.blob(file.sha256)
            try:
                (place,) = self.wiring.blobs.fetch([file], of=name).values()
                self.documents.add(key, place, file.sha256, file.size)
            except MissingBlob as error:
                self.documents.missing[key] = first_line(error)
                if forgotten:
                    self.documents.missing[key] = f"{name} was forgotten by {forgotten.get('who')}"
                    self.documents.explained.add(key)
            except CorruptBlob as error:
                self.documents.missing[key] = first_line(error)

    def _folder(self, folder: str) -> list[str]:
        """Choose all documents of a folder; returns their keys."""
        keys = [info.key for info in islice(self.wiring.store.list(folder), _MAX_LISTED)]
        self.documents.read(keys)
        for key in keys:
            self.documents.choose(key)
        return keys

    def _is_done(self, key: str) -> bool:
        is_done = key in self._done
        self._done.add(key)
        return is_done


def served(record: Mapping[str, Any]) -> Iterator[str]:
    """The versions that a record serves, by name."""
    for role in ("stable", "canary"):
        name = _part(record, role).get("version")
        if isinstance(name, str):
            yield name


def within(record: Mapping[str, Any], since: datetime, until: datetime) -> bool:
    """Whether a record was made in a time. One that does not say when is taken for one that was."""
    try:
        when = datetime.fromisoformat(str(record.get("when")))
    except ValueError:
        return True
    return since <= (when if when.tzinfo else when.replace(tzinfo=UTC)) < until


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _digests(document: Mapping[str, Any], name: str) -> list[str]:
    found = document.get(name)
    return [digest for each in found if (digest := _digest(each))] if isinstance(found, list) else []


def _digest(value: object) -> str:
    """A digest in hex; empty for anything else."""
    is_one = isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")
    return str(value) if is_one else ""

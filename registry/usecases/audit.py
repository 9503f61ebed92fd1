"""Put everything that proves what a version or a channel was into one archive, which others verify without `ulora`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from registry.errors import IntegrityError, NotFound, StoreDenied, UloraError
from registry.formats import canonical
from registry.formats.addresses import without_password
from registry.formats.html import HtmlTable
from registry.machine.provenance import release
from registry.machine.scratch import scratch
from registry.names import CHANNELS, VersionName, check_channel
from registry.progress import Say, say_nothing
from registry.usecases.audit_archive import Content, check_place, write_archive
from registry.usecases.audit_documents import AuditDocuments, in_archive
from registry.usecases.audit_options import AuditOptions
from registry.usecases.audit_walk import AuditWalk, served, within
from registry.wiring import Wiring

INDEX, SCRIPT = "index.json", "verify.py"
"""The archive's own files: what is in it, and the script that verifies it."""
_SHOWN = 3


@dataclass(frozen=True)
class Audited(HtmlTable):
    """An archive that was written, or would be.

    Attributes:
        path: where it is; None for a plan.
        sha256: of the archive; empty for a plan. `verify_sha256` is that of the script in it.
        files: how many are in it, besides its index and its script; `size` their bytes.
        channels: the first and the last generation of each log that is in it.
        versions: those of which all documents are in it.
        missing, damaged: what is not in it or not as it was written, and why, by key in the store; it says so itself.
        refused: the keys of those missing ones that the store does not give: they may be whole.
        explained: of those that are missing as they should be: files of forgotten versions.
    """

    path: Path | None
    sha256: str
    verify_sha256: str
    files: int
    size: int
    channels: dict[str, tuple[int, int]]
    versions: tuple[str, ...]
    missing: dict[str, str]
    damaged: dict[str, str]
    refused: tuple[str, ...] = ()
    explained: tuple[str, ...] = ()

    @property
    def problem(self) -> UloraError | None:
        """What an auditor will ask about; None where all is there and right."""
        absent = [key for key in self.missing if key not in self.explained]
        wrong = [*self.damaged, *(key for key in absent if key not in self.refused)]
        named = ", ".join((wrong or absent)[:_SHOWN]) + " …" * (len(wrong or absent) > _SHOWN)
        hint = "the archive has the rest, and its index.json says what is wrong; `ulora verify --all` names all"
        if wrong:
            return IntegrityError(f"{len(wrong)} of the documents are missing or damaged: {named}", hint=hint)
        return StoreDenied(f"{len(absent)} of the documents may not be read: {named}", hint=hint) if absent else None


def audit(
    wiring: Wiring, place: Path, options: AuditOptions, *, dry_run: bool = False, say: Say = say_nothing
) -> Audited:
    """Write the archive; see `Registry.audit`."""
    check_place(place)
    with scratch("ulora-audit-") as folder:
        documents = AuditDocuments(wiring.store, folder)
        walk = AuditWalk(wiring, documents, say)
        _walk(walk, options)
        files = dict(_files(documents))
        script = resources.files("registry.breakglass").joinpath("verify_audit.py").read_bytes()
        index = canonical.encode(_index(wiring, options, walk, canonical.sha256(script)))
        if not dry_run:
            say(f"writing {place}")
            write_archive(place, {**files, INDEX: index, SCRIPT: script})
        size = sum(kept.size for key in documents.chosen if (kept := documents.kept(key)))
        return Audited(
            None if dry_run else place, "" if dry_run else _digest(place), canonical.sha256(script), len(files), size,
            walk.channels, tuple(walk.versions), documents.missing, documents.damage,
            tuple(sorted(documents.refused & documents.missing.keys())), tuple(sorted(documents.explained)),
        )  # fmt: skip


def _walk(walk: AuditWalk, options: AuditOptions) -> None:
    """Choose what is asked for.

    Raises:
        VersionNotFound: there is no such version.
        NotFound: the channel has no record of that time.
    """
    if options.version is not None:
        name = str(VersionName.parse(options.version))
        walk.wiring.bindings.get(VersionName.parse(name))
        for channel in CHANNELS:
            walk.log(channel, lambda record: name in served(record), after=True)
        walk.whole_version(name)
    else:
        channel = check_channel(str(options.channel))
        since, until = options.times
        records = walk.log(channel, lambda record: within(record, since, until))
        if not records:
            walk.wiring.store.check_holds(walk.wiring.model)
            began = f" from {since.isoformat()} on" if options.since else ""
            ended = f" before {until.isoformat()}" if options.until else ""
            raise NotFound(
                f"{channel} has no record{began}{ended}",
                hint=f"`ulora history --channel {channel}` shows when it moved",
            )
        for name in dict.fromkeys(name for record in records for name in served(record)):
            walk.whole_version(name)
    for name in list(walk.versions) if options.with_weights else ():
        walk.files(name)


def _files(documents: AuditDocuments) -> Iterator[tuple[str, Content]]:
    for key in documents.chosen:
        if kept := documents.kept(key):
            yield in_archive(key), kept.place


def _index(wiring: Wiring, options: AuditOptions, walk: AuditWalk, script: str) -> dict[str, Any]:
    """What is in the archive. Nothing in it depends on when or where it is made, so that equal archives are equal."""
    documents = walk.documents
    files = {in_archive(key): {"sha256": kept.sha256, "size": kept.size} for key in documents.chosen
             if (kept := documents.kept(key))}  # fmt: skip
    index = {
        "format": 1,
        "model": wiring.model,
        "store": without_password(wiring.store.url),
        "release": release(),
        "about": options.about,
        "channels": {name: {"first": first, "last": last} for name, (first, last) in walk.channels.items()},
        "versions": list(walk.versions),
        "files": {**files, SCRIPT: {"sha256": script}},
        "missing": documents.missing,
        "damaged": documents.damage,
    }
    return {**index, "sha256": canonical.digest(index)}


def _digest(place: Path) -> str:
    from registry.store.blobs import hash_file

    return hash_file(place, place.stat().st_size) or ""

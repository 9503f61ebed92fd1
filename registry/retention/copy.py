"""Copy a version to another store or to a folder, and from such a folder into a store.

Copied: missing blobs, the manifest, the backbone if the source holds it, evidence with its outcomes, signatures. The
name is bound last: an interrupted copy is not a version yet, and the next one completes it. Not copied: channels,
verdicts, policies, passes, approvals, ticks, notes. Each store has its own history, and its gates and people judge for
themselves.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.errors import (
    BadInput,
    CorruptBlob,
    KeyExists,
    MissingBlob,
    ObjectNotFound,
    VersionExists,
    disk_errors,
)
from registry.formats.cache_files import temporary_file
from registry.formats.counts import counted
from registry.names import VersionName
from registry.parallel import in_parallel
from registry.progress import OpenProgress
from registry.retention.copied_documents import Carried
from registry.retention.notes import forgotten_notes
from registry.retention.version_contents import VersionContents, read_contents
from registry.store import layout
from registry.store.blobs import hash_file
from registry.store.cache import Described
from registry.store.folder import Folder
from registry.store.object_info import Encryption
from registry.store.objects import ObjectStore
from registry.store.publishing import Local, publish
from registry.store.storage import ReadableStorage, Storage, StreamedStorage
from registry.versions.bindings import Binding
from registry.versions.manifest import MAX_FILE, FileEntry

_ANY_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SCRATCH = "copying"
"""The folder in the cache for blobs on their way."""


@dataclass(frozen=True)
class Copied:
    """What a copy did, or would do.

    Attributes:
        is_new: whether the version was not there before.
        blobs: how many were sent, of `blobs_of`; `size` their bytes.
        evidence, signatures: how many of these the version has.
        backbone: the name of the backbone that was copied with it, or the empty string.
        notes: what the caller should know.
        digest: in an OCI registry, that of the manifest which the tag names, `sha256:…`; else the empty string.
    """

    model: str
    version: str
    place: str
    is_new: bool
    blobs: int
    blobs_of: int
    size: int
    evidence: int
    signatures: int
    backbone: str
    notes: tuple[str, ...]
    digest: str = ""


@dataclass(frozen=True)
class Copy:
    """From one place to another.

    Attributes:
        local: gives a file on this disk with the verified bytes of a blob of the source.
    """

    source: ReadableStorage
    target: Storage
    local: Local
    model: str

    def plan(self, version: str) -> Copied:
        """What `run` would do. Nothing is written.

        Raises:
            VersionNotFound, VersionExists, IntegrityError, ObjectNotFound, BadInput: see `run`.
        """
        self._check_places()
        contents = read_contents(self.source, self.model, VersionName.parse(version))
        self.target.check_target()
        bound = self._bound(contents)
        carried = contents.documents.each(lambda key, body: None, signed=self._signed(contents, bound))
        return self._answer(contents, bound, self._missing(contents), carried)

    def run(self, version: str, open_progress: OpenProgress) -> Copied:
        """Copy what is missing there; the name last. Running it again does what is still undone.

        Raises:
            VersionNotFound: the source does not have it.
            VersionExists: the name has other content there. Nothing was changed.
            Overwritten: the target ignores conditions: the name may have replaced another one there.
            MissingBlob, CorruptBlob, BadManifest: the source is damaged. What was copied is whole.
            ObjectNotFound, BadInput: the target is not a store, holds other files, or is the source itself.
            NotNow: a garbage collection there is deleting what is needed; run it again.
        """
        self._check_places()
        contents = read_contents(self.source, self.model, VersionName.parse(version))
        self.target.check_writable()
        bound = self._bound(contents)
        with open_progress(sum(file.size for file in contents.blobs)) as progress:
            done = publish(self.target, contents.blobs, self.local, lambda: self._bind(contents, bound), progress)
        return self._answer(contents, bound, done.sent.values(), done.value)

    def _check_places(self) -> None:
        if self.source.address == self.target.address:
            raise BadInput(f"{self.target.url} is the store to copy from", hint="--to another store, or a folder")

    # --- the target --------------------------------------------------------------------------------------------------

    def _bound(self, contents: VersionContents) -> Binding | None:
        """What the name is bound to in the target, None if it is free.

        Raises:
            VersionExists: it is bound to other content.
        """
        key = layout.version(self.model, contents.binding.version)
        try:
            bound = Binding.parse(self.target.get(key, Binding.LIMIT).body, key)
        except ObjectNotFound:
            return None
        if bound.content_sha256 != contents.binding.content_sha256:
            raise VersionExists(
                f"{self.target.url} has {bound.version} with other content "
                f"({bound.content_sha256[:12]}, not {contents.binding.content_sha256[:12]}); nothing was changed there",
                hint="a version never changes: create it here under the next name, and copy that",
            )
        return bound

    def _missing(self, contents: VersionContents) -> list[int]:
        """The sizes of the blobs that are not in the target."""

        def is_missing(file: FileEntry) -> bool:
            return not self.target.holds(layout.blob(file.sha256), file.sha256, file.size)

        found = zip(contents.blobs, in_parallel(is_missing, contents.blobs), strict=True)
        return [file.size for file, missing in found if missing]

    def _bind(self, contents: VersionContents, bound: Binding | None) -> Carried:
        """The documents, then the name."""
        if contents.backbone:
            key = layout.backbone(contents.backbone.backbone.sha256)
            if self.target.head(key) is None:
                self.target.create(key, contents.backbone.to_bytes())
        carried = contents.documents.each(self.target.create, signed=self._signed(contents, bound))
        if bound:
            forgotten = forgotten_notes(self.target, self.model)
            if forgotten.find(bound.version):
                forgotten.take_back(bound.version)
            return carried
        key, binding = layout.version(self.model, contents.binding.version), contents.binding.to_bytes()
        try:
            self.target.create(key, binding)
        except KeyExists:  # somebody else has just bound it
            self._bound(contents)
        else:
            self.target.confirm(key, binding)
        return carried

    def _signed(self, contents: VersionContents, bound: Binding | None) -> bool:
        """Whether signatures are copied: not if the target has a manifest of its own: they sign the bytes of ours."""
        return bound is None or bound.manifest_sha256 == contents.binding.manifest_sha256

    def _answer(
        self, contents: VersionContents, bound: Binding | None, sizes: Collection[int], carried: Carried
    ) -> Copied:
        notes = (*contents.notes, *carried.notes)
        left = 0 if self._signed(contents, bound) else len(contents.documents.signatures.found)
        if left:
            notes += (f"it was created there with another manifest; not copied: {counted(left, 'signature')}",)
        return Copied(
            model=self.model, version=contents.binding.version, place=self.target.url, is_new=bound is None,
            blobs=len(sizes), blobs_of=len(contents.blobs), size=sum(sizes),
            evidence=carried.evidence, signatures=carried.signatures,
            backbone=contents.backbone.backbone.name if contents.backbone else "", notes=notes,
        )  # fmt: skip


@dataclass(frozen=True)
class FromStore:
    """Gives blobs of a store, or of what is read like one, as temporary files in the cache, verified."""

    store: StreamedStorage
    cache: Path

    @contextmanager
    def __call__(self, file: Described) -> Iterator[Path]:
        """Raises:
        MissingBlob, CorruptBlob: the source is damaged.
        DiskFull, BadSetting: the cache can't hold the file, or its folder is a link.
        """
        scratch, digest = self.cache / _SCRATCH, hashlib.sha256()
        with ExitStack() as ending:
            with disk_errors(scratch, hint="remove it if it is a link; ULORA_CACHE is the cache folder"):
                path, out = ending.enter_context(temporary_file(self.cache, _SCRATCH))
            try:
                with disk_errors(scratch):
                    for chunk in self.store.stream(layout.blob(file.sha256), file.size):
                        digest.update(chunk)
                        out.write(chunk)
                    out.flush()
            except ObjectNotFound as error:
                raise MissingBlob(f"blob {file.sha256} is not in {self.store.url}") from error
            _check(digest.hexdigest(), file, self.store.url)
            yield path


@dataclass(frozen=True)
class FromFolder:
    """Gives blobs of a folder, verified."""

    folder: Folder

    @contextmanager
    def __call__(self, file: Described) -> Iterator[Path]:
        """Raises:
        MissingBlob, CorruptBlob: the source is damaged.
        UnsafePath: a link is on the way.
        BadInput: it is too large for a file of a version.
        """
        if file.size > MAX_FILE:
            raise BadInput(f"blob {file.sha256} has {file.size} bytes, more than the {MAX_FILE} that a file may have")
        path = self.folder.path(layout.blob(file.sha256))
        if not path.is_file():
            raise MissingBlob(f"blob {file.sha256} is not in {self.folder.url}", hint="make that copy again")
        _check(hash_file(path, file.size), file, self.folder.url)
        yield path


def _check(digest: str | None, file: Described, where: str) -> None:
    if digest != file.sha256:
        raise CorruptBlob(
            f"corrupt: SHA-256 mismatch (blob {file.sha256} in {where}); it was not copied",
            hint="`ulora verify VERSION` there says which file it is",
        )


def is_remote(place: str) -> bool:
    """Whether this text names a store, not a folder."""
    return place.lower().startswith("s3:")


def open_place(
    url: str, *, endpoint_url: str | None = None, profile: str | None = None, sse: str | None = None
) -> Storage:
    """The store or folder named by `s3://BUCKET/PREFIX` or a folder's path.

    `sse` is how that store encrypts what is written; with a key of that account, where our key is not known.

    Raises:
        BadSetting: the URL is not an S3 URL.
        BadInput: it is the URL of something else, or empty.
    """
    if is_remote(url):
        encryption = Encryption(sse) if sse else None
        return ObjectStore(url, endpoint_url=endpoint_url, profile=profile, encryption=encryption)
    if not url.strip() or _ANY_URL.match(url):
        raise BadInput(
            f"{url!r} is neither a store nor a folder", hint="s3://BUCKET/PREFIX, oci://REGISTRY/REPO, or a folder"
        )
    return Folder(Path(url))

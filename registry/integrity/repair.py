"""Replace corrupt blobs and put missing ones back: the only place that replaces a blob.

A blob's name is its digest, so bytes from anywhere can be checked. A corrupt blob is replaced only after it was read
and found corrupt, and only while it is still the object that was read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from stat import S_ISREG

from registry.errors import BadInput, CorruptBlob, ObjectNotFound, StoreDenied, no_folder
from registry.formats import canonical
from registry.integrity.report import Mended, Verification
from registry.integrity.verify import MANIFEST, Verifier
from registry.progress import Progress, no_progress
from registry.store import layout
from registry.store.blobs import BlobEntry, Blobs, hash_file
from registry.store.objects import ObjectStore
from registry.store.refusals import MAY_NOT

_MAX_CANDIDATES = 1_000_000
_REPAIRABLE = ("missing", "corrupt", "unproven")


class FilesByDigest:
    """The files below a folder, found by their content; their names and paths do not matter."""

    def __init__(self, folder: Path) -> None:
        """Raises: BadInput: it is not a folder."""
        if not folder.is_dir():
            raise BadInput(no_folder(folder), hint="name one that holds good copies, e.g. the bundle")
        self._folder = folder
        self._digests: dict[Path, str | None] = {}

    def find(self, digest: str, size: int | None) -> Path | None:
        """A file with this digest, None if there is none. Without its `size` in bytes only small files are searched."""
        sizes = [size] if size is not None else [each for each in self._by_size if each <= canonical.MAX_DOCUMENT]
        candidates = [path for each in sizes for path in self._by_size.get(each, [])]
        at_most = canonical.MAX_DOCUMENT if size is None else size
        candidates.sort(key=lambda path: path.name not in (digest, MANIFEST))  # the likely ones first
        return next((path for path in candidates if self._digest(path, at_most) == digest), None)

    @cached_property
    def _by_size(self) -> dict[int, list[Path]]:
        found: dict[int, list[Path]] = {}
        for count, path in enumerate(self._files()):
            if count >= _MAX_CANDIDATES:
                raise BadInput(
                    f"{self._folder} holds more than {_MAX_CANDIDATES:,} files", hint="give a smaller folder"
                )
            with suppress(OSError):
                stat = path.stat()
                if S_ISREG(stat.st_mode):
                    found.setdefault(stat.st_size, []).append(path)
        return found

    def _files(self) -> Iterator[Path]:
        return (Path(place, name) for place, _, names in os.walk(self._folder) for name in sorted(names))

    def _digest(self, path: Path, at_most: int) -> str | None:
        if path not in self._digests:
            try:
                self._digests[path] = hash_file(path, at_most)
            except OSError:
                self._digests[path] = None  # it is gone, or we may not read it
        return self._digests[path]


@dataclass(frozen=True)
class RepairPlan:
    """How to repair a blob.

    Attributes:
        problem: confirmed by reading: `missing`, `corrupt` or `unproven` (good bytes whose digest the store does not
            keep); empty if it is good.
        source: a file with the right bytes, None if none was found.
        etag: of the object that was read, None if it is missing.
    """

    sha256: str
    problem: str
    source: Path | None
    etag: str | None = None


class BlobRepair:
    """Repairs single blobs from good copies."""

    def __init__(self, store: ObjectStore, blobs: Blobs, copies: FilesByDigest) -> None:
        self._store = store
        self._blobs = blobs
        self._copies = copies

    def plan(self, digest: str, size: int | None) -> RepairPlan:
        """Read a blob that may be bad, and look for a good copy. Nothing is written.

        Raises:
            StoreDenied: it may not be read.
        """
        key = layout.blob(digest)
        try:
            found = self._store.contents(key)
        except ObjectNotFound:
            return RepairPlan(digest, "missing", self._copies.find(digest, size))
        if found.sha256 != digest:
            return RepairPlan(digest, "corrupt", self._copies.find(digest, size), found.etag)
        if self._blobs.absent([BlobEntry(digest, found.size)]):
            source = self._copies.find(digest, found.size) or self._from_store(digest, found.size)
            return RepairPlan(digest, "unproven", source, found.etag)
        return RepairPlan(digest, "", None)

    def apply(self, plan: RepairPlan) -> bool:
        """Repair a blob and read it again; False if there is no copy to repair it from.

        Raises:
            CorruptBlob: the copy changed meanwhile, or the blob reads back different.
        """
        if plan.source is None:
            return not plan.problem
        key, size = layout.blob(plan.sha256), plan.source.stat().st_size
        if plan.etag is None:
            self._store.upload(key, plan.source, plan.sha256, size)
        else:
            self._store.replace(key, plan.source, plan.sha256, size, plan.etag)
        if self._store.contents(key).sha256 != plan.sha256:
            raise CorruptBlob(f"blob {plan.sha256} was written, but does not read back as it was sent")
        return True

    def _from_store(self, digest: str, size: int) -> Path:
        """The store's own good bytes, through the cache: uploaded again, the store keeps their digest."""
        return self._blobs.fetch([BlobEntry(digest, size)])[digest]


ApplyPlan = Callable[[BlobRepair, RepairPlan], bool]
"""Carries out a plan; True if the blob is good afterwards."""


def only_plan(blob_repair: BlobRepair, plan: RepairPlan) -> bool:
    """An `ApplyPlan` that repairs nothing, for a dry run."""
    return not plan.problem


@dataclass(frozen=True)
class Repairer:
    """Verifies versions, repairs their bad blobs, and says what is still bad.

    Attributes:
        apply: how to repair: `BlobRepair.apply`, or `only_plan` for a dry run.
        on_repair: called with each bad blob before it is repaired, and again afterwards.
    """

    verifier: Verifier
    blob_repair: BlobRepair
    apply: ApplyPlan = BlobRepair.apply
    on_repair: Callable[[Mended], None] = lambda mended: None

    def version(self, name: str, progress: Progress = no_progress) -> tuple[Verification, tuple[Mended, ...]]:
        """Repair a version; return how it is afterwards, and what was repaired.

        Raises:
            VersionNotFound: no version has this name.
        """
        left, mended = self.repair(self.verifier.inspect(name, progress))
        if any(each.done and each.path == MANIFEST for each in mended):  # only now its files are known
            left, more = self.repair(self.verifier.inspect(name, progress))
            mended += more
        return left, mended

    def repair(self, checked: Verification) -> tuple[Verification, tuple[Mended, ...]]:
        """Repair the bad blobs that a verification found; return what is still bad, and what was repaired.

        What has no digest, such as a binding, can't be repaired.
        """
        digests = dict.fromkeys(bad.sha256 for bad in checked.bad if bad.sha256 and bad.problem in _REPAIRABLE)
        mended = tuple(self._repair_blob(checked, digest) for digest in digests)
        good = {each.sha256 for each in mended if each.done}
        self.verifier.mark_good(good)
        return replace(checked, bad=tuple(bad for bad in checked.bad if bad.sha256 not in good)), mended

    def _repair_blob(self, checked: Verification, digest: str) -> Mended:
        path = next(bad.path for bad in checked.bad if bad.sha256 == digest)
        try:
            plan = self.blob_repair.plan(digest, self.verifier.sizes.get(digest))
        except StoreDenied:
            unread = Mended(checked.version, path, digest, MAY_NOT, "", done=False)
            self.on_repair(unread)
            return unread
        planned = Mended(checked.version, path, digest, plan.problem, str(plan.source or ""), done=False)
        self.on_repair(planned)
        if not self.apply(self.blob_repair, plan):
            return planned
        done = replace(planned, done=True)
        self.on_repair(done)
        return done

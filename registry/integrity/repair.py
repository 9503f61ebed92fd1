"""Put good bytes where the store holds bad ones or none: the only place that replaces a blob.

A blob is asked for by its digest, so what is right can always be told, and good bytes may come from anywhere. A corrupt
one is replaced only after it was read and found bad, and only as long as it is still the object that was read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from stat import S_ISREG

from registry.answers import Mended, Verification
from registry.errors import BadInput, CorruptBlob, ObjectNotFound
from registry.formats import canonical
from registry.integrity.verify import MANIFEST, Verifier
from registry.store import layout
from registry.store.blobs import Blobs, Progress, hash_file
from registry.store.objects import ObjectStore

_MAX_CANDIDATES = 1_000_000
_MENDABLE = ("missing", "corrupt", "unproven")


class Copies:
    """The files of a folder, to be found by what is in them; their names and places do not matter."""

    def __init__(self, folder: Path) -> None:
        """Raises: BadInput: there is no such folder."""
        if not folder.is_dir():
            raise BadInput(f"{folder} is not a folder", hint="give one that holds good copies, e.g. the bundle")
        self._folder = folder
        self._digests: dict[Path, str] = {}

    def find(self, digest: str, size: int | None) -> Path | None:
        """A file with this digest; `size` in bytes where it is known, else any that can be a document is looked at."""
        sizes = [size] if size is not None else [each for each in self._by_size if each <= canonical.MAX_DOCUMENT]
        candidates = [path for each in sizes for path in self._by_size.get(each, [])]
        candidates.sort(key=lambda path: path.name not in (digest, MANIFEST))  # the likely ones first
        return next((path for path in candidates if self._digest(path) == digest), None)

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

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            try:
                self._digests[path] = hash_file(path)
            except OSError:
                self._digests[path] = ""  # gone, or not to be read by us: no copy
        return self._digests[path]


@dataclass(frozen=True)
class RepairPlan:
    """What is to be done about a bad blob.

    Attributes:
        problem: confirmed by reading: `missing`, `corrupt` or `unproven` (good bytes whose digest the store does not
            keep); empty when it turned out to be good.
        source: a file with the right bytes, None where there is none.
        etag: of the object that was read, None when there is none.
    """

    sha256: str
    problem: str
    source: Path | None
    etag: str | None = None


class BlobRepair:
    """Puts good copies where blobs are missing or corrupt."""

    def __init__(self, store: ObjectStore, blobs: Blobs, copies: Copies) -> None:
        self._store = store
        self._blobs = blobs
        self._copies = copies

    def plan(self, digest: str, size: int | None) -> RepairPlan:
        """Read a blob that is said to be bad, and look for a good copy. Nothing is written."""
        key = layout.blob(digest)
        try:
            found = self._store.contents(key)
        except ObjectNotFound:
            return RepairPlan(digest, "missing", self._copies.find(digest, size))
        if found.sha256 != digest:
            return RepairPlan(digest, "corrupt", self._copies.find(digest, size), found.etag)
        if self._blobs.absent([_Blob(digest, found.size)]):
            source = self._copies.find(digest, found.size) or self._own(digest, found.size)
            return RepairPlan(digest, "unproven", source, found.etag)
        return RepairPlan(digest, "", None)

    def apply(self, mending: RepairPlan) -> bool:
        """Do it and read the blob again; False where there was no copy.

        Raises:
            CorruptBlob: the copy changed meanwhile, or what was written does not read back.
        """
        if mending.source is None:
            return not mending.problem
        key, size = layout.blob(mending.sha256), mending.source.stat().st_size
        if mending.etag is None:
            self._store.upload(key, mending.source, mending.sha256, size)
        else:
            self._store.replace(key, mending.source, mending.sha256, size, mending.etag)
        if self._store.contents(key).sha256 != mending.sha256:
            raise CorruptBlob(f"blob {mending.sha256} was written, but does not read back as it was sent")
        return True

    def _own(self, digest: str, size: int) -> Path:
        """The store's own good bytes, by way of the cache: written again, the store keeps their digest."""
        return self._blobs.fetch([_Blob(digest, size)])[digest]


@dataclass(frozen=True)
class _Blob:
    sha256: str
    size: int


Mend = Callable[[BlobRepair, RepairPlan], bool]


def only_plan(mender: BlobRepair, mending: RepairPlan) -> bool:
    """Mend nothing; True where nothing has to be."""
    return not mending.problem


@dataclass(frozen=True)
class Repairer:
    """Verifies, mends what is bad, and says what is left of it.

    Attributes:
        mend: how: `BlobRepair.apply`, or `only_plan` for a dry run.
        tell: told of each bad blob before it is mended, and again once it is.
    """

    verifier: Verifier
    mender: BlobRepair
    mend: Mend = BlobRepair.apply
    tell: Callable[[Mended], None] = lambda mended: None

    def version(self, name: str, progress: Progress = lambda done: None) -> tuple[Verification, tuple[Mended, ...]]:
        """A version as it is afterwards, and what was mended: its manifest first, which says what else it has.

        Raises:
            VersionNotFound: there is no such version.
        """
        left, mended = self.mended(self.verifier.inspect(name, progress))
        if any(each.done and each.path == MANIFEST for each in mended):
            left, more = self.mended(self.verifier.inspect(name, progress))
            mended += more
        return left, mended

    def mended(self, checked: Verification) -> tuple[Verification, tuple[Mended, ...]]:
        """What is left bad of what was found, and what was mended. What has no digest, as a binding, can't be."""
        digests = dict.fromkeys(bad.sha256 for bad in checked.bad if bad.sha256 and bad.problem in _MENDABLE)
        mended = tuple(self._mended(checked, digest) for digest in digests)
        good = {each.sha256 for each in mended if each.done}
        self.verifier.found_good(good)
        return replace(checked, bad=tuple(bad for bad in checked.bad if bad.sha256 not in good)), mended

    def _mended(self, checked: Verification, digest: str) -> Mended:
        path = next(bad.path for bad in checked.bad if bad.sha256 == digest)
        mending = self.mender.plan(digest, self.verifier.sizes.get(digest))
        plan = Mended(checked.version, path, digest, mending.problem, str(mending.source or ""), done=False)
        self.tell(plan)
        if not self.mend(self.mender, mending):
            return plan
        done = replace(plan, done=True)
        self.tell(done)
        return done

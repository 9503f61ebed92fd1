"""Bytes under their own sha256: upload what is missing, fetch verified into a cache that processes share.

Every reader hashes what it reads: bytes that do not hash to their name never leave this module.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from registry.errors import BadBundle, CorruptBlob, MissingBlob, ObjectNotFound, StoreUnreachable
from registry.formats import canonical
from registry.formats.bounded import file_digest
from registry.formats.local_file import LocalFile
from registry.parallel import in_parallel
from registry.progress import Progress, no_progress
from registry.store import layout
from registry.store.cache import UNWATCHED, BlobCache, Described, FetchWatch, LockPatience
from registry.store.object_info import ObjectInfo
from registry.store.objects import ObjectStore


@dataclass(frozen=True)
class BadBlob:
    """A blob with a problem: `missing`, `corrupt`, or `unproven` where the store keeps no digest of it, as after other
    tools copied it: only reading can tell."""

    sha256: str
    problem: str


@dataclass(frozen=True)
class BlobEntry:
    """A blob by its digest and its size in bytes: the plainest `Described`."""

    sha256: str
    size: int


class Blobs:
    """The blobs of one store, seen through one cache folder."""

    def __init__(self, store: ObjectStore, cache: Path) -> None:
        self._store = store
        self._cache = BlobCache(cache)

    # --- to the store ------------------------------------------------------------------------------------------------

    def absent(self, files: Iterable[Described]) -> list[BadBlob]:
        """Those of the files whose blob the store does not hold with the right size and digest. One HEAD a blob.

        Raises:
            StoreUnreachable: a HEAD and a listing do not say the same of a blob.
        """
        distinct = {file.sha256: file for file in files}
        found = in_parallel(self._look_twice, distinct.values())
        return [bad for bad in found if bad is not None]

    def require(self, files: Iterable[Described], of: str = "") -> None:
        """Check that the store holds the files, as it describes them. One HEAD a blob.

        Args:
            of: the version that has them, for errors.

        Raises:
            MissingBlob, CorruptBlob: it does not hold one, or holds another under its digest.
        """
        for bad in self.absent(files):
            if bad.problem != "unproven":
                raise (_missing if bad.problem == "missing" else _corrupt)(bad.sha256, of)

    def upload(self, sources: Mapping[str, LocalFile], progress: Progress = no_progress) -> int:
        """Upload files, given by digest, that the store does not hold yet; return the bytes sent.

        Raises:
            CorruptBlob: a file is not what its digest says, or the store holds other bytes under it.
        """

        def send(item: tuple[str, LocalFile]) -> int:
            digest, file = item
            try:
                with file.open("rb") as opened:
                    size = os.fstat(opened.fileno()).st_size
            except OSError as error:
                raise BadBundle(f"{file} can't be read: {error.strerror}") from error
            present = _judge(BlobEntry(digest, size), self._store.head(layout.blob(digest))) is None
            if present:
                progress(size)
                return 0
            self._store.upload(layout.blob(digest), file, digest, size, progress)
            return size

        return sum(in_parallel(send, sources.items()))

    def put(self, body: bytes) -> str:
        """Store some bytes as a blob and return their digest."""
        digest = canonical.sha256(body)
        with tempfile.NamedTemporaryFile() as file:
            file.write(body)
            file.flush()
            self._store.upload(layout.blob(digest), Path(file.name), digest, len(body))
        return digest

    # --- from the store ----------------------------------------------------------------------------------------------

    def read(self, digest: str, limit: int = canonical.MAX_DOCUMENT) -> bytes:
        """A small blob's bytes, verified.

        Raises:
            MissingBlob: the store does not hold it.
            CorruptBlob: it does not hash to its name.
        """
        try:
            body = self._store.get(layout.blob(digest), limit).body
        except ObjectNotFound as error:
            raise _missing(digest) from error
        if canonical.sha256(body) != digest:
            raise _corrupt(digest)
        return body

    def fetch(
        self, files: Iterable[Described], progress: Progress = no_progress, watch: FetchWatch = UNWATCHED, of: str = ""
    ) -> dict[str, Path]:
        """Local files by digest, each verified in this call, those missing in the cache downloaded in parallel.

        A cache that can't be written, or in which another process holds a lock for too long, is left alone: files that
        it lacks go to a temporary folder, which ends with this process.

        Args:
            of: the version that has them, for errors.

        Raises:
            MissingBlob, CorruptBlob: the store does not hold a blob, or it does not hash to its name.
            DiskFull, BadSetting: neither the cache nor a temporary folder can hold it.
        """
        distinct = {file.sha256: file for file in files}
        patience = LockPatience()

        def fetch_one(file: Described) -> Path:
            what = ", ".join(filter(None, (of, getattr(file, "path", ""))))
            path = self._cache.get(file, partial(self._stream, file, what), watch, patience)
            progress(file.size)
            return path

        return dict(zip(distinct, in_parallel(fetch_one, distinct.values()), strict=True))

    def check(self, files: Iterable[Described], progress: Progress = no_progress) -> list[BadBlob]:
        """Read every blob from the store (not the cache) and return those that are missing or corrupt."""
        distinct = {file.sha256: file for file in files}

        def look(file: Described) -> BadBlob | None:
            try:
                for chunk in self._stream(file):
                    progress(len(chunk))
            except MissingBlob:
                return BadBlob(file.sha256, "missing")
            except CorruptBlob:
                return BadBlob(file.sha256, "corrupt")
            return None

        return [bad for bad in in_parallel(look, distinct.values()) if bad is not None]

    # --- parts -------------------------------------------------------------------------------------------------------

    def _look_twice(self, file: Described) -> BadBlob | None:
        """As the store describes a blob; a problem counts only if a listing says the same. The reply to a HEAD has no
        body to know S3 by, so that whatever stands in front of the store can answer in its place."""
        key = layout.blob(file.sha256)
        info = self._store.head(key)
        bad = _judge(file, info)
        if bad:
            listed = next((each.size for each in self._store.list(key) if each.key == key), None)
            if listed != (info.size if info else None):
                raise StoreUnreachable(
                    f"the store describes {key} as {_words(info.size if info else None)}, and lists {_words(listed)}",
                    hint="is there a proxy in front of it that answers by itself? Else try again",
                )
        return bad

    def _stream(self, file: Described, what: str = "") -> Iterator[bytes]:
        """A blob's bytes as they arrive. Raises at the end if they do not hash to the name: use no byte before that."""
        digest = hashlib.sha256()
        try:
            for chunk in self._store.stream(layout.blob(file.sha256), file.size):
                digest.update(chunk)
                yield chunk
        except ObjectNotFound as error:
            raise _missing(file.sha256, what) from error
        except StoreUnreachable as error:
            raise StoreUnreachable(f"{error} ({what})" if what else str(error), hint=error.hint) from error
        if digest.hexdigest() != file.sha256:
            raise _corrupt(file.sha256, what)


def _judge(file: Described, info: ObjectInfo | None) -> BadBlob | None:
    if info is None:
        return BadBlob(file.sha256, "missing")
    if info.size == file.size and info.sha256 is None:
        return BadBlob(file.sha256, "unproven")
    return None if (info.size, info.sha256) == (file.size, file.sha256) else BadBlob(file.sha256, "corrupt")


def _words(size: int | None) -> str:
    return "no object" if size is None else f"an object of {size} bytes"


def hash_file(path: Path, at_most: int) -> str | None:
    """The sha256 of a file's bytes, in hex; None if they are more than `at_most`: then it is not read."""
    with path.open("rb") as file:
        return file_digest(file.fileno(), at_most)


def _missing(digest: str, what: str = "") -> MissingBlob:
    return MissingBlob(
        f"blob {digest} is not in the store" + (f" ({what})" if what else ""),
        hint="`ulora verify VERSION --repair DIR` puts it back from any copy in DIR",
    )


def _corrupt(digest: str, what: str = "") -> CorruptBlob:
    return CorruptBlob(
        f"corrupt: SHA-256 mismatch ({f'{what}, ' if what else ''}blob {digest}); it was not used",
        hint="`ulora verify VERSION --repair DIR` puts a good copy from DIR there",
    )

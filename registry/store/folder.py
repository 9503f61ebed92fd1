"""A folder that holds copies of versions in the layout of a store, to be carried on a disk.

It is for one user at a time. A file is written beside its place and renamed, so that an interruption leaves whole files
only; links are never followed. Everything read from it is checked by who reads it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from registry.errors import BadInput, BadManifest, CorruptBlob, KeyExists, ObjectNotFound, UnsafePath, disk_errors
from registry.formats import canonical
from registry.formats.local_file import LocalFile
from registry.progress import Progress, no_progress
from registry.store import layout
from registry.store.blobs import hash_file
from registry.store.object_info import ObjectInfo, StoredObject

_CHUNK = 1024 * 1024
_PART = ".part"
MAX_LISTED = 100_000
"""Files below one prefix that are listed at most."""


class Folder:
    """A `Storage` on this machine's disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def url(self) -> str:
        """The folder's path."""
        return str(self._root)

    @property
    def address(self) -> str:
        """Equal for any two that are the same folder."""
        return str(self._root.resolve())

    def path(self, key: str) -> Path:
        """The file of a key.

        Raises:
            UnsafePath: a link is on the way, or the key leaves the folder.
        """
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or ".." in parts:
            raise UnsafePath(f"{key!r} is not a key")
        place = self._root
        for part in parts:
            place /= part
            if place.is_symlink():
                raise UnsafePath(f"{place} is a link", hint="a copy holds files only")
        return place

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, key: str, limit: int = canonical.MAX_DOCUMENT) -> StoredObject:
        """Read a file of at most `limit` bytes.

        Raises:
            ObjectNotFound: no file has this key.
            BadManifest: it is larger than `limit`.
            UnsafePath: a link is on the way.
        """
        path = self._existing(key)
        with _reading(path), path.open("rb") as file:
            body, modified = file.read(limit + 1), os.fstat(file.fileno()).st_mtime
        if len(body) > limit:
            raise BadManifest(f"{path} is larger than the {limit} bytes that are allowed")
        return StoredObject(body, datetime.fromtimestamp(modified, UTC), 0.0)

    def head(self, key: str) -> ObjectInfo | None:
        """A file's size and time, without its digest: `holds` reads it. None when no file has this key."""
        try:
            path = self._existing(key)
        except ObjectNotFound:
            return None
        with _reading(path):
            info = path.stat()
            return ObjectInfo(key, info.st_size, None, "", datetime.fromtimestamp(info.st_mtime, UTC))

    def holds(self, key: str, digest: str, size: int) -> bool:
        """Whether a file has so many bytes, and hashes to this sha256. One of another size is not read."""
        try:
            path = self._existing(key)
        except ObjectNotFound:
            return False
        with _reading(path):
            return path.stat().st_size == size and hash_file(path, size) == digest

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The files below a prefix that ends with a slash, in order.

        Raises:
            BadInput: there are too many.
        """
        folder = self.path(prefix) if prefix else self._root
        found = (f"{place}/{name}" for place, _, names in os.walk(folder) for name in names if not name.endswith(_PART))
        listed = sorted(islice(found, MAX_LISTED + 1))
        if len(listed) > MAX_LISTED:
            raise BadInput(f"{folder} holds more than {MAX_LISTED:,} files", hint="make that copy again")
        for path in map(Path, listed):
            yield ObjectInfo(path.relative_to(self._root).as_posix(), path.lstat().st_size)

    # --- writing -----------------------------------------------------------------------------------------------------

    def create(self, key: str, body: bytes) -> None:
        """Create a file; it may be there already with these bytes.

        Raises:
            KeyExists: it holds other bytes.
        """
        path = self.path(key)
        if path.exists():
            if self.get(key).body != body:
                raise KeyExists(key)
            return
        with _writing(path) as out:
            out.write(body)

    def confirm(self, key: str, body: bytes) -> str:
        """Nothing to find out: a folder has one user at a time."""
        return ""

    def upload(self, key: str, file: LocalFile, digest: str, size: int, progress: Progress = no_progress) -> bool:
        """Copy a file whose sha256 is `digest`; anything else under this key is replaced. True: it was copied.

        Raises:
            CorruptBlob: the file does not have this digest.
        """
        hashed, left = hashlib.sha256(), size
        with _writing(self.path(key)) as out, file.open("rb") as opened:
            while chunk := opened.read(min(_CHUNK, left)):
                left -= len(chunk)
                hashed.update(chunk)
                out.write(chunk)
                progress(len(chunk))
            if hashed.hexdigest() != digest:
                raise CorruptBlob(f"{file} changed while it was read", hint="run the same command again")
        return True

    def replace(self, key: str, file: LocalFile, digest: str, size: int, etag: str) -> None:
        """Copy a file over another one; `etag` is not used: a folder has one user at a time.

        Raises:
            CorruptBlob: the file does not have this digest.
        """
        self.upload(key, file, digest, size)

    def delete(self, key: str) -> None:
        """Delete a file; it need not exist."""
        self.path(key).unlink(missing_ok=True)

    def check_writable(self) -> None:
        """Prepare an empty folder for copies, or check that this one was prepared.

        Raises:
            BadInput: it holds something else than copies.
            BadManifest: it has another format.
        """
        self.check_target()
        if not self.is_copy():
            self.create(layout.FORMAT_KEY, canonical.encode({"format": layout.FORMAT}))

    def check_target(self) -> None:
        """Check that this folder is empty, or one for copies. Nothing is written.

        Raises:
            BadInput: it holds something else than copies.
            BadManifest: it has another format.
        """
        if self.is_copy():
            self.check_readable()
        elif self._root.is_symlink() or (self._root.exists() and not self._root.is_dir()) or _has_content(self._root):
            raise BadInput(f"{self._root} holds other files than copies of versions", hint="use an empty folder")

    def check_readable(self) -> None:
        """Check that this folder holds copies in a format that we know.

        Raises:
            BadInput: it holds no copies.
            BadManifest: it has another format.
        """
        if not self.is_copy():
            raise BadInput(f"{self._root} holds no copies of versions", hint="`ulora store copy V --to DIR` makes them")
        found = canonical.decode(self.get(layout.FORMAT_KEY).body, str(self.path(layout.FORMAT_KEY))).get("format")
        if found != layout.FORMAT:
            raise BadManifest(
                f"{self._root} has format {found!r}, this release knows {layout.FORMAT}", hint="upgrade ulora"
            )

    def is_copy(self) -> bool:
        """Whether versions were copied here."""
        return self.path(layout.FORMAT_KEY).is_file()

    def _existing(self, key: str) -> Path:
        path = self.path(key)
        if not path.is_file():
            raise ObjectNotFound(key)
        return path


@contextmanager
def _writing(path: Path) -> Iterator[BinaryIO]:
    """A file beside its place, renamed when all of it is on the disk, which may be removed at any time after that."""
    beside = path.with_name(path.name + _PART)
    with disk_errors(path, hint="choose a folder that can be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        try:
            with beside.open("xb") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}") from error


def _has_content(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix != _PART for path in folder.iterdir())

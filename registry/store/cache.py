"""The blobs on this machine's disk: a cache that processes share, and a folder of this process where that fails.

Whoever may write to a shared cache may put anything there. So below the cache's folder no link is followed, files are
made under names that nobody can guess, and a file is hashed before its path is handed out. A cache that can't be
written serves what it holds. What it lacks is then kept in a temporary folder, which ends with this process.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import hashlib
import os
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from registry.errors import disk_errors

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_CHUNK = 1024 * 1024
_LOCK_POLL = 0.05
_LONGEST_LOCK = 1800.0
"""Seconds after which a lock is not waited for any longer, even if its holder shows signs of life."""
_LIFE_EVERY = 1.0
"""Seconds between two signs of life of a process that holds a lock."""
_ABANDONED_AFTER = 86400.0
"""Seconds without a write after which the writer of a part is dead."""
_PRIVATE_PREFIX = "ulora-blobs-"
"""`registry.machine.scratch` removes such folders of killed processes."""


class Described(Protocol):
    """Something with a digest and a size in bytes, such as a manifest's `FileEntry`."""

    @property
    def sha256(self) -> str: ...
    @property
    def size(self) -> int: ...


Download = Callable[[], Iterable[bytes]]
"""Yields a blob's bytes, and raises an error at the end if they do not hash to its name."""


def _ignore(_: object) -> None:
    pass


@dataclass(frozen=True)
class FetchWatch:
    """What a caller wants to know of a fetch while it runs. The functions are called in several threads.

    Attributes:
        arrived: is called with the number of bytes that were downloaded or hashed: a sign of life.
        waits: is called with what the fetch waits for, again and again.
        note: is called with the reason why the cache is not used for a blob.
        lock_seconds: after so long without a sign of life of the process that holds the cache's lock on a blob, the
            blob is fetched without the cache.
    """

    arrived: Callable[[int], None] = _ignore
    waits: Callable[[str], None] = _ignore
    note: Callable[[str], None] = _ignore
    lock_seconds: float = 30.0


UNWATCHED = FetchWatch()


class BlobCache:
    """The cache in one folder. Threads and processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, file: Described, download: Download, watch: FetchWatch) -> Path:
        """A local file that held exactly a blob's bytes when it was looked at in this call.

        Raises:
            DiskFull: neither the cache nor the folder of this process has space for it.
            BadSetting: neither can be written.
        """
        path = self._folder / "blobs" / file.sha256[:2] / file.sha256
        with suppress(OSError), self._opened(file.sha256) as folder:
            if _is_whole(folder, file, watch):
                return path
        problem = None
        try:
            if self._fill(file, download, watch):
                return path
        except OSError as error:
            problem = error
            watch.note(f"the cache {self._folder} can't be used: {error}; a temporary folder is used instead")
        try:
            return _get_privately(file, download, watch)
        except OSError as error:
            with disk_errors(path):
                raise problem or error from error

    def _fill(self, file: Described, download: Download, watch: FetchWatch) -> bool:
        """Download into the cache, one process at a time; False if another one holds the lock for too long.

        Raises:
            OSError: the cache can't be written.
        """
        with self._opened(file.sha256, make=True) as folder, _opened_lock(folder, file.sha256) as lock:
            if not _is_taken(lock, file.sha256, watch):
                return False
            if not _is_whole(folder, file, watch):
                _remove_abandoned(folder)
                _write(folder, file.sha256, _with_life(lock, download()), watch)
        return True

    @contextmanager
    def _opened(self, digest: str, *, make: bool = False) -> Iterator[int]:
        """A descriptor of the folder that has a blob. The cache's own folder may be a link, but none below it."""
        if make:
            self._folder.mkdir(parents=True, exist_ok=True)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in ("blobs", digest[:2]):
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=folder)
                below = os.open(name, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)


# --- files -----------------------------------------------------------------------------------------------------------


def _is_whole(folder: int, file: Described, watch: FetchWatch) -> bool:
    """Whether a folder has a regular file with a blob's bytes under its name."""
    try:
        # O_NONBLOCK: somebody may have put a pipe there, which nobody writes to.
        opened = os.open(file.sha256, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return False
    try:
        info = os.fstat(opened)
        is_blob = stat.S_ISREG(info.st_mode) and info.st_size == file.size
        return is_blob and _hash(opened, watch) == file.sha256
    finally:
        os.close(opened)


def _hash(source: int, watch: FetchWatch) -> str:
    digest = hashlib.sha256()
    while chunk := os.read(source, _CHUNK):
        digest.update(chunk)
        watch.arrived(len(chunk))
    return digest.hexdigest()


def _write(folder: int, name: str, chunks: Iterable[bytes], watch: FetchWatch) -> None:
    """Write beside and rename, so that a reader sees a whole file or none."""
    part = f"{name}.{secrets.token_hex(16)}.part"
    opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        with os.fdopen(opened, "wb") as out:
            for chunk in chunks:
                out.write(chunk)
                watch.arrived(len(chunk))
            out.flush()
            os.fchmod(opened, 0o444)
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise


def _remove_abandoned(folder: int) -> None:
    """Remove the parts that dead processes left in a folder."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if name.endswith(".part"):
                info = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if time.time() - info.st_mtime > _ABANDONED_AFTER:
                    os.unlink(name, dir_fd=folder)


# --- the lock --------------------------------------------------------------------------------------------------------


@contextmanager
def _opened_lock(folder: int, digest: str) -> Iterator[int]:
    """A descriptor of the file that is locked while a blob is downloaded. Closing it ends the lock."""
    name = f"{digest}.lock"
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=folder)
    except PermissionError:  # another user's
        lock = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        yield lock
    finally:
        os.close(lock)


def _is_taken(lock: int, digest: str, watch: FetchWatch) -> bool:
    """Take a lock, and write there who has it; False if its holder shows no sign of life for too long."""
    started = alive_at = time.monotonic()
    last_sign = None
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sign(lock)
            return True
        now, sign = time.monotonic(), os.fstat(lock).st_mtime_ns
        if sign != last_sign:
            last_sign, alive_at = sign, now
        if now - alive_at >= watch.lock_seconds or now - started >= _LONGEST_LOCK:
            watch.note(f"{_holder(lock)} holds the cache's lock on blob {digest}: it is fetched without the cache")
            return False
        watch.waits(f"the cache's lock on blob {digest[:12]}, held by {_holder(lock)}")
        time.sleep(_LOCK_POLL)


def _sign(lock: int) -> None:
    with suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}@{socket.gethostname()}"[:200].encode(), 0)


def _holder(lock: int) -> str:
    with suppress(OSError):
        text = os.pread(lock, 200, 0).decode("ascii", "replace")
        return "".join(letter if letter.isprintable() else "?" for letter in text) or "an unknown process"
    return "an unknown process"


def _with_life(lock: int, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same chunks; meanwhile the lock's file shows that this process lives."""
    shown_at = time.monotonic()
    for chunk in chunks:
        if time.monotonic() - shown_at >= _LIFE_EVERY:
            shown_at = time.monotonic()
            with suppress(OSError):
                os.utime(lock)
        yield chunk


# --- without the shared cache ----------------------------------------------------------------------------------------


def _get_privately(file: Described, download: Download, watch: FetchWatch) -> Path:
    """A local file in the temporary folder of this process.

    Raises:
        OSError: there is none, or it can't be written.
    """
    private = _private_folder(os.getpid())
    with suppress(FileExistsError):  # somebody may have tidied up the temporary files
        private.mkdir(mode=0o700)
    folder = os.open(private, _FOLDER)
    try:
        if not _is_whole(folder, file, watch):
            _write(folder, file.sha256, download(), watch)
    finally:
        os.close(folder)
    return private / file.sha256


@functools.cache
def _private_folder(process: int) -> Path:
    """A temporary folder of this process, removed at its end. A forked process gets one of its own."""
    folder = Path(tempfile.mkdtemp(prefix=_PRIVATE_PREFIX))
    # Held for as long as the process lives: `registry.machine.scratch` leaves a locked folder alone.
    fcntl.flock(os.open(folder, _FOLDER), fcntl.LOCK_EX | fcntl.LOCK_NB)

    def remove() -> None:
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder

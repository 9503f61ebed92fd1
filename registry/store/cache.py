"""The blobs on this machine's disk: a cache that processes share, and a folder of this process where that fails.

Whoever may write to a shared cache may put anything there. So below the cache's folder no link is followed, files are
made under names that nobody can guess, and a file is hashed before its path is handed out. A cache that can't be
written serves what it holds. What it lacks is then kept in a temporary folder, which ends with this process.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import math
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from registry.errors import disk_errors
from registry.formats.bounded import file_digest
from registry.formats.cache_files import opened_folder, remove_abandoned, write_whole

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_LOCK_POLL = 0.05
_LONGEST_LOCK = 1800.0
"""Seconds after which a fetch waits for no lock any longer, even if the holders show signs of life."""
_LIFE_EVERY = 1.0
"""Seconds between two signs of life of a process that holds a lock."""
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


class LockPatience:
    """For how long the locks of one fetch are waited for, in all its threads together.

    Whoever may write to the cache may hold a lock on each of a thousand blobs, or keep each alive for a while.
    """

    def __init__(self) -> None:
        self._ends_at = time.monotonic() + _LONGEST_LOCK

    def end(self) -> None:
        """Wait for no other lock: one was given up."""
        self._ends_at = -math.inf

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._ends_at


class BlobCache:
    """The cache in one folder. Threads and processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, file: Described, download: Download, watch: FetchWatch, patience: LockPatience) -> Path:
        """A local file that held exactly a blob's bytes when it was looked at in this call.

        Args:
            patience: one for all blobs of a fetch.

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
            if self._fill(file, download, watch, patience):
                return path
        except OSError as error:
            problem = error
            watch.note(f"the cache {self._folder} can't be used: {error}; a temporary folder is used instead")
        try:
            return _get_privately(file, download, watch)
        except OSError as error:
            with disk_errors(path):
                raise problem or error from error

    def _fill(self, file: Described, download: Download, watch: FetchWatch, patience: LockPatience) -> bool:
        """Download into the cache, one process at a time; False if another one holds the lock for too long.

        Raises:
            OSError: the cache can't be written.
        """
        with self._opened(file.sha256, make=True) as folder, _opened_lock(folder, file.sha256) as lock:
            if not _is_taken(lock, file.sha256, watch, patience):
                return False
            if not _is_whole(folder, file, watch):
                remove_abandoned(folder)
                write_whole(folder, file.sha256, _with_life(lock, download()), watch.arrived)
        return True

    def _opened(self, digest: str, *, make: bool = False) -> AbstractContextManager[int]:
        return opened_folder(self._folder, "blobs", digest[:2], make=make)


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
        return is_blob and file_digest(opened, file.size, watch.arrived) == file.sha256
    finally:
        os.close(opened)


# --- the lock --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lock:
    """A file that is locked while a blob is downloaded.

    Attributes:
        opened: its descriptor; closing it ends the lock.
        is_alone: whether it has no other name. Somebody may have given this name to another file of this user, which
            must stay as it is.
    """

    opened: int
    is_alone: bool


@contextmanager
def _opened_lock(folder: int, digest: str) -> Iterator[_Lock]:
    name = f"{digest}.lock"
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=folder)
    except PermissionError:  # another user's
        lock = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        yield _Lock(lock, _is_alone(lock, folder, name))
    finally:
        os.close(lock)


def _is_alone(opened: int, folder: int, name: str) -> bool:
    """Whether an opened file is a regular one, and this name its only one: asked of the name, which may have changed
    since."""
    with suppress(OSError):
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        return stat.S_ISREG(info.st_mode) and info.st_nlink == 1 and os.path.samestat(info, os.fstat(opened))
    return False


def _is_taken(lock: _Lock, digest: str, watch: FetchWatch, patience: LockPatience) -> bool:
    """Take a lock, and write there who has it; False if its holder shows no sign of life for too long, or this fetch
    has no patience left."""
    alive_at = time.monotonic()
    last_sign = None
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock.opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sign(lock)
            return True
        now, sign = time.monotonic(), os.fstat(lock.opened).st_mtime_ns
        if sign != last_sign:
            last_sign, alive_at = sign, now
        if now - alive_at >= watch.lock_seconds:
            patience.end()
        if patience.is_over:
            watch.note(f"{_holder(lock)} holds the cache's lock on blob {digest}: it is fetched without the cache")
            return False
        watch.waits(f"the cache's lock on blob {digest[:12]}, held by {_holder(lock)}")
        time.sleep(_LOCK_POLL)


def _sign(lock: _Lock) -> None:
    if lock.is_alone:
        with suppress(OSError):
            os.ftruncate(lock.opened, 0)
            os.pwrite(lock.opened, f"{os.getpid()}@{socket.gethostname()}"[:200].encode(), 0)


def _holder(lock: _Lock) -> str:
    with suppress(OSError):
        if not lock.is_alone:
            return "an unknown process"
        text = os.pread(lock.opened, 200, 0).decode("ascii", "replace")
        return "".join(letter if letter.isprintable() else "?" for letter in text) or "an unknown process"
    return "an unknown process"


def _with_life(lock: _Lock, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same chunks; meanwhile the lock's file shows that this process lives."""
    shown_at = time.monotonic()
    for chunk in chunks:
        if lock.is_alone and time.monotonic() - shown_at >= _LIFE_EVERY:
            shown_at = time.monotonic()
            with suppress(OSError):
                os.utime(lock.opened)
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
            write_whole(folder, file.sha256, download(), watch.arrived)
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

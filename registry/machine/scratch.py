"""Temporary folders; those left by killed processes are removed by a later one."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR

PREFIXES = tuple(
    f"ulora-{what}-" for what in ("log", "import", "plots", "file", "git", "blobs", "model", "test", "audit")
)
_OLD = 86400.0


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A temporary folder whose name begins with one of `PREFIXES`; locked, so that no other process removes it.

    After an interruption other threads may still write there: what they leave is removed later, as of a killed process.
    """
    remove_abandoned()
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        lock = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(name)
        finally:
            os.close(lock)


def scratch_of(owner: object, prefix: str) -> Path:
    """A temporary folder as of `scratch`, which is removed when `owner` or this process ends.

    A forked process leaves the folders of its parent alone.
    """
    remove_abandoned()
    folder, process = Path(tempfile.mkdtemp(prefix=prefix)), os.getpid()
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def remove() -> None:
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)

    weakref.finalize(owner, remove)
    return folder


def remove_abandoned() -> int:
    """Remove the folders of killed processes: those of this user that are a day old and not locked.

    Returns the number of removed folders.
    """
    return sum(_remove_if_abandoned(folder) for folder in _folders())


def _folders() -> Iterator[Path]:
    temporary = Path(tempfile.gettempdir())
    with suppress(OSError):
        yield from [each for each in temporary.iterdir() if each.name.startswith(PREFIXES)]


def _remove_if_abandoned(folder: Path) -> bool:
    try:
        info = folder.lstat()
        if not S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or time.time() - info.st_mtime < _OLD:
            return False
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return False
    else:
        return not folder.exists()
    finally:
        os.close(lock)

"""Temporary folders that a killed process may leave, and that the next one clears away."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR

PREFIXES = ("ulora-log-", "ulora-import-", "ulora-plots-", "ulora-file-")
_OLD = 86400.0


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A temporary folder whose name begins with one of `PREFIXES`; locked, so that nobody takes it for a left one."""
    clear_left()
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        lock = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(name)
        finally:
            os.close(lock)


def clear_left() -> int:
    """Remove the folders of killed processes: this user's own, untouched for a day, and locked by nobody.

    Returns how many there were.
    """
    return sum(_remove_if_left(folder) for folder in _folders())


def _folders() -> Iterator[Path]:
    place = Path(tempfile.gettempdir())
    with suppress(OSError):
        yield from [each for each in place.iterdir() if each.name.startswith(PREFIXES)]


def _remove_if_left(folder: Path) -> bool:
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

"""Files in the cache folder, which other users of the machine may be allowed to write to.

Whoever may write there may put anything under any name. So below the cache's folder no link is followed, files are made
under names that nobody can guess, and nothing is opened that could keep its reader waiting, such as a pipe.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from registry.progress import ignore

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_ABANDONED_AFTER = 86400.0
"""Seconds without a write after which the writer of a part is dead."""


@dataclass(frozen=True)
class CacheFile:
    """A small file in a cache: `names` are those of the folders to it, and its own."""

    cache: Path
    names: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where it is, for messages."""
        return self.cache.joinpath(*self.names)

    def read(self, limit: int) -> bytes:
        """Its bytes, at most `limit` + 1 of them.

        Raises:
            OSError: it does not exist, is not a regular file, is reached through a link, or can't be read.
        """
        with opened_folder(self.cache, *self.names[:-1]) as folder:
            return read_bounded(folder, self.names[-1], limit)

    def write(self, data: bytes) -> None:
        """Replace it, whole or not at all.

        Raises:
            OSError: it can't be written, or would be reached through a link.
        """
        with opened_folder(self.cache, *self.names[:-1], make=True) as folder:
            remove_abandoned(folder)
            write_whole(folder, self.names[-1], [data])


@contextmanager
def opened_folder(cache: Path, *names: str, make: bool = False) -> Iterator[int]:
    """A descriptor of a folder in the cache. The cache's own folder may be a link, but none below it.

    Raises:
        OSError: it does not exist, or can't be made.
    """
    if make:
        cache.mkdir(parents=True, exist_ok=True)
    folder = os.open(cache, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in names:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=folder)
            below = os.open(name, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


def write_whole(
    folder: int, name: str, chunks: Iterable[bytes], arrived: Callable[[int], None] = ignore, *, sync: bool = False
) -> None:
    """Write beside and rename, so that a reader sees a whole file, the old or the new one, or none.

    With `sync` that holds after a power cut too. `arrived` is called with the bytes of each chunk that is written.

    Raises:
        OSError: the folder can't be written.
    """
    part = f"{name}.{secrets.token_hex(16)}.part"
    opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        with os.fdopen(opened, "wb") as out:
            for chunk in chunks:
                out.write(chunk)
                arrived(len(chunk))
            out.flush()
            os.fchmod(opened, 0o444)
            if sync:
                os.fsync(opened)
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise


@contextmanager
def temporary_file(cache: Path, folder: str) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file in a folder of the cache, by its path and opened; it is removed at the end.

    Raises:
        OSError: it can't be made, or would be reached through a link.
    """
    name = f"{secrets.token_hex(16)}.part"
    with opened_folder(cache, folder, make=True) as opened:
        remove_abandoned(opened)
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=opened)
        try:
            with os.fdopen(file, "wb") as out:
                yield cache / folder / name, out
        finally:
            with suppress(OSError):
                os.unlink(name, dir_fd=opened)


def read_bounded(folder: int, name: str, limit: int) -> bytes:
    """The bytes of a small regular file in a folder, at most `limit` + 1 of them.

    Raises:
        OSError: it does not exist, is not a regular file, or can't be read.
    """
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    with os.fdopen(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file.read(limit + 1)


def remove_abandoned(folder: int) -> None:
    """Remove the parts that dead processes left in a folder."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if name.endswith(".part"):
                info = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if time.time() - info.st_mtime > _ABANDONED_AFTER:
                    os.unlink(name, dir_fd=folder)

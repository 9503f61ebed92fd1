"""Folders that versions are made from. Others may write there meanwhile, so what is read is found anew each time.

The chosen folder may be reached through links. It is opened once; everything below is opened from there, part by part,
and no part is followed if it is a link, whether it was one when the folder was listed or has become one since.
"""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from registry.errors import BadBundle, UnsafePath
from registry.machine.safe_folder import SafeFolder

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

FolderState = tuple[int, int]
"""The times that change when anything is put into a folder, taken away or renamed there: mtime and ctime, in ns. Some
network file systems give a folder another inode number each time, so that is not part of it."""


class SourceFolder:
    """An open folder. It stays open for as long as it, or one of its files, is used.

    Paths are relative to it, with `/` between their parts; a folder's may have one at the end.
    """

    def __init__(self, path: Path) -> None:
        """Open a folder, also through links.

        Raises:
            OSError: it can't be opened.
        """
        self.path = path
        self._folder = SafeFolder(os.open(path, _FOLDER), path)
        weakref.finalize(self, os.close, self._folder.fd)

    def file(self, path: str) -> SourceFile:
        """A file below it, which is opened later."""
        return SourceFile(self, path)

    def entries(self, path: str) -> list[tuple[str, os.stat_result]]:
        """The names in a folder, sorted, each with its status: of a link its own.

        Raises:
            BadBundle: a part of the path is a link.
            OSError: it can't be read.
        """
        with _links_named():
            return self._folder.entries(path)

    def open(self, path: str) -> BinaryIO:
        """Open a regular file for reading.

        Raises:
            BadBundle: it is something else, or a part of the path is a link.
            OSError: it can't be read.
        """
        with _links_named():
            return self._folder.open(path)

    def read_link(self, path: str) -> str:
        """The target of a link, as text.

        Raises:
            BadBundle: a part of the path before it is a link.
            OSError: it can't be read.
        """
        with _links_named():
            return self._folder.read_link(path)

    def is_file(self, path: str) -> bool:
        """Whether there is a regular file that no link leads to."""
        return stat.S_ISREG(self._mode(path))

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder that no link leads to."""
        return stat.S_ISDIR(self._mode(path))

    def states(self, left_out: Container[str], limit: int) -> dict[str, FolderState]:
        """The states of it and of the folders below, by path; see `unchanged`."""
        states, pending, count = {"": _state(os.fstat(self._folder.fd))}, [""], 0
        while pending:
            here = pending.pop()
            entries = self.entries(here)
            count += len(entries)
            if count > limit:
                raise BadBundle(f"{self.path} contains more than {limit} files and folders")
            for name, info in entries:
                if stat.S_ISDIR(info.st_mode) and name not in left_out:
                    states[f"{here}{name}"] = _state(info)
                    pending.append(f"{here}{name}/")
        return states

    def _mode(self, path: str) -> int:
        with suppress(UnsafePath, OSError):
            info = self._folder.stat(path)
            return info.st_mode if info else 0
        return 0


@dataclass(frozen=True)
class SourceFile:
    """A file below a folder: a `LocalFile` that is found anew, without following links, each time it is opened."""

    folder: SourceFolder
    path: str

    def __str__(self) -> str:
        return str(self.folder.path / self.path)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Open it for reading; see `SourceFolder.open`."""
        return self.folder.open(self.path)


@contextmanager
def unchanged(folder: Path, left_out: Container[str], limit: int) -> Iterator[None]:
    """Refuse what was done with a folder's paths if anything was replaced there meanwhile, for example by a link. What
    was put back shows too, by the times of the folder that it is in.

    Args:
        left_out: names of folders that are not looked into.
        limit: how many files and folders there may be.

    Raises:
        BadBundle: something was added, removed or renamed, there is too much to tell, or a folder can't be read.
    """
    before = _states_of(folder, left_out, limit)
    yield
    after = _states_of(folder, left_out, limit)
    if changed := sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path)):
        raise BadBundle(
            f"{folder / changed[0]} changed while it was read; nothing was created",
            hint="run it again when nobody writes there",
        )


def _states_of(folder: Path, left_out: Container[str], limit: int) -> dict[str, FolderState]:
    try:
        return SourceFolder(folder).states(left_out, limit)
    except OSError as error:
        raise BadBundle(f"{error.filename} can't be read: {error.strerror}") from error


def _state(info: os.stat_result) -> FolderState:
    return info.st_mtime_ns, info.st_ctime_ns


@contextmanager
def _links_named() -> Iterator[None]:
    try:
        yield
    except UnsafePath as error:
        raise BadBundle(
            str(error), hint="a version holds files only: put a copy of its target in the place of a link"
        ) from error

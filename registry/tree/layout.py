"""Where a version's files lie in a folder on disk, and which names in it belong to ulora."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from registry.errors import CorruptBlob, UnsafePath
from registry.formats.bounded import open_regular
from registry.versions.manifest import FileEntry, Manifest, check_unique

FILES_FLAVOR = "files"
"""The flavor of snapshots: versions of files only, all of them in the component `project`."""
PROJECT = "project/"
STATE_FOLDER = ".ulora"
"""The folder inside a restored tree in which ulora records what it restored."""

FetchFiles = Callable[[Sequence[FileEntry]], Mapping[str, Path]]
"""Downloads files; returns verified local files by sha256."""


def open_fetched(file: Path) -> BinaryIO:
    """Open a fetched file. Whoever may write to the cache may have exchanged it since it was verified: for a pipe,
    which would be waited for, or for a link.

    Raises:
        CorruptBlob: it is no regular file.
        OSError: it can't be read.
    """
    try:
        return open_regular(file, follow=False)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ELOOP, errno.ENXIO):
            raise
        raise CorruptBlob(
            f"{file} was exchanged after it was verified, and is no file any more; it was not used",
            hint="somebody else may write to the cache: give ULORA_CACHE a folder of your own (mode 0700)",
        ) from error


def tree_files(manifest: Manifest) -> tuple[FileEntry, ...]:
    """A version's files at their places in a restored tree: a snapshot's `project/x` is `x` there.

    Raises:
        UnsafePath: a file would lie in `.ulora`, which ulora uses itself, or two at one place.
    """
    is_snapshot = manifest.flavor == FILES_FLAVOR
    files = tuple(
        file.model_copy(update={"path": file.path.removeprefix(PROJECT)}) if is_snapshot else file
        for file in manifest.files
    )
    for file in files:
        if file.path.casefold().split("/")[0] == STATE_FOLDER:
            raise UnsafePath(
                f"{manifest.version} has a file {file.path}, but {STATE_FOLDER} is reserved for ulora",
                hint="create a version without this file",
            )
    try:
        check_unique([file.path for file in files])  # `x` and `project/x` of a snapshot
    except ValueError as error:
        raise UnsafePath(f"{manifest.version} can't be a folder: {error}") from error
    return files


def mode_of(info: os.stat_result) -> str:
    """A file's mode as versions keep it."""
    return "0755" if info.st_mode & stat.S_IXUSR else "0644"

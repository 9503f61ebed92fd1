"""Where the files are that are answered: a folder, a table of paths, or what is below a prefix in S3.

All are listed as a stream, and each file is read when its turn comes. Of a folder the names of one of its folders at a
time are in memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Protocol

from registry.errors import BadInput
from registry.serving.batch.reading import S3, InputFile, read_local, read_object
from registry.serving.batch.rows import ReadFile
from registry.serving.batch.tables import TableKind, table_files
from registry.store.objects import ObjectStore

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""How the names of files end that are taken from a folder or from S3. A table may name others."""
_MAX_DEPTH = 64

InputKind = Literal["folder", "csv", "parquet", "s3"]
OpenStore = Callable[[str], ObjectStore]
"""Opens `s3://BUCKET/PREFIX`."""


class BatchInput(Protocol):
    """Files to answer."""

    kind: InputKind

    def files(self) -> Iterator[InputFile]:
        """All of them, in an order that does not change. Raises: BadInput: they can't be listed."""

    def read(self, file: InputFile) -> ReadFile:
        """A file's bytes. Called in several threads.

        Raises:
            UloraError: it can't be read now, and nothing says that this file is to blame.
        """


def open_input(text: str, open_store: OpenStore) -> BatchInput:
    """The input that a text names.

    Raises:
        BadInput: there is no such folder or table, or it may not be looked at.
    """
    if text.startswith(S3):
        return S3Prefix(open_store(text))
    path = Path(text)
    kind = path.suffix.lower()
    try:
        if path.is_dir():
            return LocalFolder(path)
        if path.is_file() and kind in (".csv", ".parquet"):
            return PathTable(path, "csv" if kind == ".csv" else "parquet", open_store)
        found = "has another kind" if path.exists() else "does not exist"
    except (OSError, ValueError) as error:
        found = f"can't be looked at: {getattr(error, 'strerror', None) or error}"
    raise BadInput(
        f"{text[:300]} {found}",
        hint="give a folder, a .csv or .parquet file with a column `path`, or s3://BUCKET/PREFIX",
    )


class LocalFolder:
    """The images below a folder, by their paths relative to it. No link to a folder is followed, and what begins with
    a dot is left out."""

    kind: InputKind = "folder"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def files(self) -> Iterator[InputFile]:
        """All of them, folder by folder, in the order of their names."""
        return (InputFile(path) for path in self._below("", 0))

    def read(self, file: InputFile) -> ReadFile:
        """A file's bytes."""
        return read_local(file, self._folder / file.path, self._folder)

    def _below(self, folder: str, depth: int) -> Iterator[str]:
        if depth > _MAX_DEPTH:
            raise BadInput(f"{self._folder / folder} is nested more than {_MAX_DEPTH} folders deep")
        try:
            with os.scandir(self._folder / folder) as entries:
                found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except OSError as error:
            raise BadInput(f"{self._folder / folder} can't be listed: {error.strerror}") from error
        for name, is_folder in found:
            path = f"{folder}/{name}" if folder else name
            if is_folder and not name.startswith("."):
                yield from self._below(path, depth + 1)
            elif not is_folder and _is_image(name):
                yield path


class S3Prefix:
    """The images below a prefix, by their URLs."""

    kind: InputKind = "s3"

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def files(self) -> Iterator[InputFile]:
        """All of them, in the order of their keys."""
        keys = (info.key for info in self._store.list(""))
        return (InputFile(f"{self._store.url}/{key}") for key in keys if _is_image(key.rpartition("/")[2]))

    def read(self, file: InputFile) -> ReadFile:
        """A file's bytes."""
        return read_object(file, self._store, self.files)


class PathTable:
    """The files that a table names in its column `path`: URLs in S3, or paths, from the table's own folder where they
    are relative. A column `target` may name the target of each."""

    def __init__(self, table: Path, kind: TableKind, open_store: OpenStore) -> None:
        self.kind: InputKind = kind
        self._table = table
        self._table_kind = kind
        self._open_store = open_store
        self._stores: dict[str, ObjectStore] = {}
        self._opening = threading.Lock()

    def files(self) -> Iterator[InputFile]:
        """All of them, row by row."""
        return table_files(self._table, self._table_kind)

    def read(self, file: InputFile) -> ReadFile:
        """A file's bytes."""
        if not file.path.startswith(S3):
            return read_local(file, self._table.parent / file.path, self._table)
        return read_object(file, self._store(file.path.removeprefix(S3).partition("/")[0]), self.files)

    def _store(self, bucket: str) -> ObjectStore:
        with self._opening:
            if bucket not in self._stores:
                self._stores[bucket] = self._open_store(f"{S3}{bucket}")
            return self._stores[bucket]


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")

"""Where the files are that are answered: a folder, a table of paths, or what is below a prefix in S3.

All are listed as a stream, and each file is read when its turn comes. Of a folder the names of one of its folders at a
time are in memory.
"""

from __future__ import annotations

import csv
import errno
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

from registry.errors import BadInput, BadManifest, MissingDependency, NotGiven, ObjectNotFound, UloraError
from registry.formats.addresses import without_password
from registry.formats.bounded import read_regular
from registry.names import MAX_TARGET
from registry.serving.batch.rows import ReadFile
from registry.store.objects import ObjectStore

MAX_BYTES = 32 * 1024 * 1024
"""Of a file, as a replica takes it."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""How the names of files end that are taken from a folder or from S3. A table may name others."""
_MAX_DEPTH = 64
_MAX_PATH = 32_768
_MAX_LINE = 1024 * 1024
_ROWS = 10_000
"""Of a Parquet file that are read at a time."""
_OF_THE_FILE = (
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EAGAIN,
    errno.ENAMETOOLONG, errno.ENXIO,
)  # fmt: skip
"""What one file alone can be to blame for. All else, such as a disk that fails, ends the run: it can go on later."""
_S3 = "s3://"
_OBJECT = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{2,62}/(.+)", re.DOTALL)
_MAX_KEY = 1024
"""Bytes, of S3's longest key."""

InputKind = Literal["folder", "csv", "parquet", "s3"]
OpenStore = Callable[[str], ObjectStore]
"""Opens `s3://BUCKET/PREFIX`."""


@dataclass(frozen=True)
class InputFile:
    """A file as its input names it, and its target if the input names that too."""

    path: str
    target: str | None = None


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
        BadInput: there is no such folder or table.
    """
    if text.startswith(_S3):
        return S3Prefix(open_store(text))
    path = Path(text)
    if path.is_dir():
        return LocalFolder(path)
    kind = path.suffix.lower()
    if path.is_file() and kind in (".csv", ".parquet"):
        return PathTable(path, "csv" if kind == ".csv" else "parquet", open_store)
    found = "has another kind" if path.exists() else "does not exist"
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
        found = _read_local(self._folder / file.path, file)
        if found.problem:
            self._check_there()
        return found

    def _check_there(self) -> None:
        """Raise UloraError if there is nothing at all in the folder any more, as where its disk was unmounted."""
        try:
            with os.scandir(self._folder) as entries:
                is_there = any(entries)
        except OSError:
            is_there = False
        if not is_there:
            raise _gone(self._folder)

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
        return _read_object(self._store, file.path.removeprefix(f"{self._store.url}/"), file)


class PathTable:
    """The files that a table names in its column `path`: URLs in S3, or paths, from the table's own folder where they
    are relative. A column `target` may name the target of each."""

    def __init__(self, table: Path, kind: Literal["csv", "parquet"], open_store: OpenStore) -> None:
        self.kind: InputKind = kind
        self._table = table
        self._open_store = open_store
        self._stores: dict[str, ObjectStore] = {}
        self._opening = threading.Lock()

    def files(self) -> Iterator[InputFile]:
        """All of them, row by row."""
        rows = _csv_rows(self._table) if self.kind == "csv" else _parquet_rows(self._table)
        for number, (path, target) in enumerate(rows, 1):
            if not _is_text(path, _MAX_PATH) or not path or not (target is None or _is_text(target, MAX_TARGET)):
                raise BadInput(f"row {number} of {self._table} has no path, or a path or target that is far too long")
            if path.startswith(_S3) and not _is_object(path):
                shown = without_password(path)[:200]
                raise BadInput(
                    f"row {number} of {self._table} has no address of an object in S3: {shown!r}",
                    hint="it is s3://BUCKET/KEY",
                )
            yield InputFile(path, target or None)

    def read(self, file: InputFile) -> ReadFile:
        """A file's bytes."""
        if not file.path.startswith(_S3):
            found = _read_local(self._table.parent / file.path, file)
            if found.problem and not self._table.exists():  # the disk that has both was unmounted
                raise _gone(self._table)
            return found
        bucket, _, key = file.path.removeprefix(_S3).partition("/")
        return _read_object(self._store(bucket), key, file)

    def _store(self, bucket: str) -> ObjectStore:
        with self._opening:
            if bucket not in self._stores:
                self._stores[bucket] = self._open_store(f"{_S3}{bucket}")
            return self._stores[bucket]


def _is_text(value: object, most: int) -> bool:
    return isinstance(value, str) and len(value) <= most


def _is_object(url: str) -> bool:
    match = _OBJECT.fullmatch(url)
    return match is not None and len(match[1].encode("utf-8", "surrogatepass")) <= _MAX_KEY


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _gone(place: Path) -> UloraError:
    """No file of it could be read, so no row says that of a single one: each would say so for ever."""
    return UloraError(
        f"{place} is not there any more, or is empty: was a disk unmounted?",
        hint="what was written stays; bring it back, and the same command goes on",
    )


def _read_local(path: Path, file: InputFile) -> ReadFile:
    try:
        return _bounded(read_regular(path, MAX_BYTES), file)
    except ValueError:
        return _unreadable(file, "its path has a null byte")
    except OSError as error:
        if error.errno not in _OF_THE_FILE:
            raise UloraError(
                f"{path} can't be read: {error.strerror or error}", hint="what was written stays; the same call goes on"
            ) from error
        return _unreadable(file, error.strerror or str(error))


def _read_object(store: ObjectStore, key: str, file: InputFile) -> ReadFile:
    try:
        return _bounded(store.get(key, MAX_BYTES).body, file)
    except (ObjectNotFound, NotGiven, BadManifest) as error:
        return _unreadable(file, "it is not there" if isinstance(error, ObjectNotFound) else str(error))


def _bounded(data: bytes, file: InputFile) -> ReadFile:
    if len(data) > MAX_BYTES:
        return _unreadable(file, f"it has more than {MAX_BYTES >> 20} MiB")
    return ReadFile(_as_text(file.path), data, file.target)


def _unreadable(file: InputFile, problem: str) -> ReadFile:
    return ReadFile(_as_text(file.path), target=file.target, problem=problem)


def _as_text(path: str) -> str:
    r"""A path as it stands in a row: bytes that are no UTF-8 as `\xff`, which every format of parts can hold."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _csv_rows(table: Path) -> Iterator[tuple[Any, Any]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(_lines(opened), strict=True)
            _check_columns(table, reader.fieldnames or ())
            for row in reader:
                if any(row.get(None) or ()):  # DictReader's place for what has no column
                    raise csv.Error(f"line {reader.line_num} has more fields than there are columns")
                yield row["path"], row.get("target")
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"{table} is not a CSV file in UTF-8: {error}") from error


def _lines(table: TextIO) -> Iterator[str]:
    """The lines of a table. A file of any size may be a single one.

    Raises:
        csv.Error: one is too long.
    """
    while line := table.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise csv.Error(f"a line has {_MAX_LINE} characters or more")
        yield line


def _parquet_rows(table: Path) -> Iterator[tuple[Any, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingDependency(
            "pyarrow is not installed, which reads Parquet", hint="pip install 'ulora-registry[mlflow]', or give a .csv"
        ) from error
    try:
        with parquet.ParquetFile(table) as opened:
            names = opened.schema_arrow.names
            _check_columns(table, names)
            columns = [name for name in ("path", "target") if name in names]
            for batch in opened.iter_batches(_ROWS, columns=columns):
                found = batch.to_pydict()
                yield from zip(found["path"], found.get("target") or [None] * len(found["path"]), strict=True)
    except (ArrowException, OSError, ValueError) as error:  # ValueError: of text that is not UTF-8, for example
        raise BadInput(f"{table} is not a Parquet file: {error}"[:500]) from error


def _check_columns(table: Path, names: Sequence[str]) -> None:
    for name in ("path", "target"):
        if names.count(name) > 1:
            raise BadInput(f"{table} has more than one column `{name}`", hint="leave one of them")
    if "path" not in names:
        shown = ", ".join(names[:10])[:200]
        raise BadInput(f"{table} has no column `path`, but {shown}", hint="name the column of the paths `path`")

"""The files that a table names, a row each. What looks like something else than it says is refused at the beginning."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO, TypeGuard

from registry.errors import BadInput, MissingDependency, install_hint
from registry.formats.addresses import without_password
from registry.names import MAX_TARGET, is_target_name
from registry.serving.batch.reading import InputFile

_COLUMNS = ("path", "target")
_MAX_PATH = 32_768
_MAX_LINE = 1024 * 1024
_ROWS = 10_000
"""Of a Parquet file that are read at a time."""
_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")
_OBJECT = re.compile(r"s3://(?![^/]*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]/(.+)", re.DOTALL)
"""Old buckets may have capital letters and underscores, which new ones may not."""
_MAX_KEY = 1024
"""Bytes, of S3's longest key."""

TableKind = Literal["csv", "parquet"]


def table_files(table: Path, kind: TableKind) -> Iterator[InputFile]:
    """The files of a table, row by row.

    Raises:
        BadInput: it is no such table, or one of its rows names no file or no target.
        MissingDependency: it is Parquet, and pyarrow is not installed.
    """
    rows = _csv_rows(table) if kind == "csv" else _parquet_rows(table)
    for number, (path, target) in enumerate(rows, 1):
        yield _file(f"row {number} of {table}", path, target)


def _file(row: str, path: object, target: object) -> InputFile:
    target = None if target == "" else target
    if not _is_text(path, _MAX_PATH) or not path or not (target is None or _is_text(target, MAX_TARGET)):
        raise BadInput(f"{row} has no path, or a path or target that is far too long")
    if _ADDRESS.match(path) and not _is_object(path):
        shown = without_password(path)[:200]
        raise BadInput(
            f"{row} has no address of an object in S3: {shown!r}",
            hint="it is s3://BUCKET/KEY, with the name of a bucket that is possible; no other addresses are read",
        )
    if target is not None and not is_target_name(target):
        raise BadInput(
            f"{row} has a target that is not a target's name: {target!r}",
            hint="for example tomato or tomato__leaf; a path with a comma in it stands in quotes",
        )
    return InputFile(path, target)


def _is_text(value: object, most: int) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= most


def _is_object(url: str) -> bool:
    match = _OBJECT.fullmatch(url)
    return match is not None and len(match[1].encode("utf-8", "surrogatepass")) <= _MAX_KEY


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
            "pyarrow is not installed, which reads Parquet", hint=f"{install_hint('mlflow')}, or give a .csv"
        ) from error
    try:
        with parquet.ParquetFile(table) as opened:
            names = opened.schema_arrow.names
            _check_columns(table, names)
            columns = [name for name in _COLUMNS if name in names]
            for batch in opened.iter_batches(_ROWS, columns=columns):
                found = batch.to_pydict()
                yield from zip(found["path"], found.get("target") or [None] * len(found["path"]), strict=True)
    except (ArrowException, OSError, ValueError) as error:
        is_text = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
        what = "has a path or target that is not UTF-8" if is_text else "is not a Parquet file"
        raise BadInput(f"{table} {what}: {error}"[:500]) from error


def _check_columns(table: Path, names: Sequence[str]) -> None:
    for name in names:
        if name not in _COLUMNS and name.strip().lower() in _COLUMNS:
            meant = name.strip().lower()
            raise BadInput(f"{table} has a column {name!r}, which is not `{meant}`", hint="rename it")
    for name in _COLUMNS:
        if names.count(name) > 1:
            raise BadInput(f"{table} has more than one column `{name}`", hint="leave one of them")
    if "path" not in names:
        shown = ", ".join(names[:10])[:200]
        raise BadInput(f"{table} has no column `path`, but {shown}", hint="name the column of the paths `path`")

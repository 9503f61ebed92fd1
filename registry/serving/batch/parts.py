"""Write the rows of one part as a file: JSON lines, CSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any, BinaryIO

from registry.errors import MissingDependency, install_hint
from registry.serving.batch.options import PartFormat
from registry.serving.batch.rows import PredictedRow

COLUMNS = tuple(field.name for field in fields(PredictedRow))
WritePart = Callable[[Sequence[PredictedRow], BinaryIO], None]


def part_writer(form: PartFormat) -> WritePart:
    """What writes parts of a format.

    Raises:
        MissingDependency: it needs pyarrow, which is not installed.
    """
    if form == "parquet":
        return _parquet_writer()
    return _write_csv if form == "csv" else _write_json_lines


def _write_json_lines(rows: Sequence[PredictedRow], out: BinaryIO) -> None:
    for row in rows:
        out.write(json.dumps(asdict(row), ensure_ascii=False, allow_nan=False).encode() + b"\n")


def _write_csv(rows: Sequence[PredictedRow], out: BinaryIO) -> None:
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    text.detach()


def _parquet_writer() -> WritePart:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependency(
            "pyarrow is not installed, which writes Parquet",
            hint=f"{install_hint('mlflow')}, or choose another --format",
        ) from error
    kinds: dict[str, Any] = {"confidence": pyarrow.float64(), "ood_score": pyarrow.float64(), "is_ood": pyarrow.bool_()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in COLUMNS])

    def write(rows: Sequence[PredictedRow], out: BinaryIO) -> None:
        table = pyarrow.Table.from_pylist([asdict(row) for row in rows], schema=schema)
        parquet.write_table(table, out, compression="zstd")

    return write

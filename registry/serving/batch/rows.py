"""Rows for files: what a version answers for each, or why there is no answer. One file costs no other its answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from registry.errors import BadInput, first_line
from registry.serving.loaders import Loaded, Prediction, PreparedRow
from registry.serving.rows import answers, prepare, takes_batches

UNREADABLE, FAILED = "unreadable", "failed"
"""The outcomes of files that no version has answered: the bytes could not be had, or computing them failed."""
_MAX_DETAIL = 1000


@dataclass(frozen=True)
class ReadFile:
    """A file to answer: its bytes, or the problem that there was with reading them."""

    path: str
    data: bytes = b""
    target: str | None = None
    problem: str = ""


@dataclass(frozen=True)
class PredictedRow:
    """One row of the result.

    Attributes:
        path: of the file, as its input names it.
        target, label, confidence, ood_score, is_ood, outcome, detail: see `adapters.answer.predictions.Prediction`.
            Numbers that are not finite are None. Beside its outcomes there are `unreadable` and `failed`.
        version, manifest_sha256: what answered.
    """

    path: str
    target: str | None
    label: str | None
    confidence: float | None
    ood_score: float | None
    is_ood: bool
    outcome: str
    detail: str
    version: str
    manifest_sha256: str


@dataclass(frozen=True)
class PreparedFile:
    """A file that was read for its version; or, where there is nothing to compute, its outcome and why."""

    path: str
    target: str | None
    row: PreparedRow | None = None
    outcome: str = ""
    detail: str = ""


class RowPredictor:
    """Makes rows with one version. Files are prepared in any thread, and answered in one."""

    def __init__(self, loaded: Loaded, manifest_sha256: str) -> None:
        self._loaded = loaded
        self._manifest_sha256 = manifest_sha256

    def prepare(self, file: ReadFile) -> PreparedFile:
        """Read the image of a file. What is wrong with it is its outcome, and raises nothing."""
        if file.problem:
            return PreparedFile(file.path, file.target, outcome=UNREADABLE, detail=file.problem)
        try:
            return PreparedFile(file.path, file.target, prepare(self._loaded, file.data, file.target))
        except MemoryError:
            raise
        except Exception as error:
            return PreparedFile(file.path, file.target, outcome=FAILED, detail=_said(error))

    def begin(self) -> None:
        """Prepare the process for one thread that computes, which is this one."""
        if takes_batches(self._loaded):
            self._loaded.begin_computing()

    def answer(self, files: Sequence[PreparedFile]) -> list[PredictedRow]:
        """The rows of some files, in order, computed together."""
        computed = [file.row for file in files if file.row is not None and file.row.answer is None]
        found = iter(self._answers(computed))
        return [self._row(file, found) for file in files]

    def _row(self, file: PreparedFile, found: Any) -> PredictedRow:
        if file.row is None:
            return self._without_answer(file, file.outcome, file.detail)
        answer = next(found) if file.row.answer is None else file.row.answer
        if isinstance(answer, Exception):
            return self._without_answer(file, FAILED, _said(answer))
        return self._answered(file, answer)

    def _answers(self, rows: list[PreparedRow]) -> list[Prediction | Exception]:
        """What the version answers; what it raises for a row that is computed alone, if it fails for all together."""
        try:
            return list(answers(self._loaded, rows)) if rows else []
        except MemoryError:
            raise
        except Exception as error:
            return [error] if len(rows) == 1 else [one for row in rows for one in self._answers([row])]

    def _answered(self, file: PreparedFile, answer: Any) -> PredictedRow:
        return PredictedRow(
            path=file.path,
            target=getattr(answer, "target", None) or file.target,
            label=getattr(answer, "label", None),
            confidence=_finite(getattr(answer, "confidence", None)),
            ood_score=_finite(getattr(answer, "ood_score", None)),
            is_ood=bool(getattr(answer, "is_ood", False)),
            outcome=answer.outcome,
            detail=str(getattr(answer, "detail", ""))[:_MAX_DETAIL],
            version=self._loaded.version,
            manifest_sha256=self._manifest_sha256,
        )

    def _without_answer(self, file: PreparedFile, outcome: str, detail: str) -> PredictedRow:
        return PredictedRow(
            file.path, file.target, None, None, None, False, outcome, detail[:_MAX_DETAIL], self._loaded.version,
            self._manifest_sha256,
        )  # fmt: skip


def rows_for(
    loaded: Loaded, manifest_sha256: str, files: Iterable[tuple[str, bytes]], target: str | None = None
) -> list[PredictedRow]:
    """Rows for (path, bytes) of some files, in order, computed together: for engines that read and write by themselves.

    Args:
        loaded: the version, from `Registry.load`.
        manifest_sha256: the digest of its manifest, for the rows.
        target: the target of all; None lets the version choose.
    """
    predictor = RowPredictor(loaded, manifest_sha256)
    return predictor.answer([predictor.prepare(ReadFile(path, data, target)) for path, data in files])


def _finite(number: Any) -> float | None:
    return float(number) if isinstance(number, int | float) and math.isfinite(number) else None


def _said(error: Exception) -> str:
    text = first_line(error)
    return text if isinstance(error, BadInput) else f"{type(error).__name__}: {text}"

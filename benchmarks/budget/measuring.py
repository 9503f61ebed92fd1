"""Measure rows, each by its command in a process of its own; what is measured is kept, whatever happens later."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.budget.rows import BudgetRow
from benchmarks.command_output import output_of
from benchmarks.comparison import say
from registry.errors import UloraError

State = Literal["measured", "failed", "interrupted", "not run"]
_MAX_SAID = 300


@dataclass(frozen=True)
class MeasureHow:
    """With how much, and with which rivals."""

    quick: bool = False
    packages: Path | None = None

    def words(self, row: BudgetRow) -> list[str]:
        """A row's command, after `python`."""
        words = (row.quick or row.tiny) if self.quick else row.full
        beside = ["--packages", str(self.packages.absolute())] if self.packages and row.takes_packages else []
        return ["-m", f"benchmarks.{row.module}", *words, *beside, "--json"]


@dataclass(frozen=True)
class MeasuredRow:
    """What became of a row.

    Attributes:
        result: the command's JSON document, empty unless it was measured.
        why: what went wrong.
        words: the command, after `python`.
    """

    name: str
    state: State
    seconds: float = 0.0
    result: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    words: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As JSON."""
        known: dict[str, Any] = {"name": self.name, "state": self.state, "seconds": round(self.seconds, 1)}
        more = {"words": list(self.words), "result": self.result} if self.result else {}
        return known | ({"why": self.why} if self.why else {}) | more


def measure_rows(
    rows: Sequence[BudgetRow], how: MeasureHow, keep: Callable[[Sequence[MeasuredRow]], None]
) -> list[MeasuredRow]:
    """Measure them one after the other. After Ctrl-C the rest is not run, and what was measured is returned.

    Args:
        keep: is given all that was measured so far, after each row.
    """
    measured: list[MeasuredRow] = []
    for number, row in enumerate(rows):
        say(f"=== {row.name} ({number + 1} of {len(rows)})")
        measured.append(measure_row(row, how))
        if measured[-1].state == "interrupted":
            break
        keep(measured)
    return measured


def measure_row(row: BudgetRow, how: MeasureHow) -> MeasuredRow:
    """Measure one; a failure is told, not raised."""
    began, words = time.monotonic(), how.words(row)
    try:
        result = checked(json.loads(output_of(words)))
        return MeasuredRow(row.name, "measured", time.monotonic() - began, result, words=tuple(words))
    except KeyboardInterrupt:
        return MeasuredRow(row.name, "interrupted", time.monotonic() - began)
    except (UloraError, OSError, ValueError) as error:
        return MeasuredRow(row.name, "failed", time.monotonic() - began, why=str(error)[:_MAX_SAID])


def checked(result: Any) -> dict[str, Any]:
    """A command's document, if it is one. Raises ValueError: it is not."""
    fields = {"benchmark": str, "machine": dict, "times": dict, "figures": dict, "budgets": list}
    if not isinstance(result, dict) or not all(isinstance(result.get(name), kind) for name, kind in fields.items()):
        raise ValueError("the command printed something else than a result")
    return result

"""The baseline, `benchmarks/baseline.json`: ratios of an earlier run, and the decision whether later ones are as good.

Only figures that hardly depend on the machine are kept: ratios within one run, and counts. Absolute times are not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.budget.lines import BudgetLine
from benchmarks.budget.rows import ROWS
from registry.errors import BadInput

BASELINE = Path(__file__).parents[1] / "baseline.json"
COMPARABLE = ("x", "requests", "tensors", "bytes", "answers")
"""Units of figures that are compared."""
FORMAT = 1
Outcome = Literal["as good", "better", "worse", "new", "missing"]


@dataclass(frozen=True)
class Judged:
    """One figure beside the baseline's.

    Attributes:
        change: how much worse it is, as a share of the baseline: 0.5 is half as much again; negative is better.
    """

    key: str
    outcome: Outcome
    value: float
    before: float
    change: float
    tolerance: float

    @property
    def is_bad(self) -> bool:
        """Whether it fails the check: worse than allowed, or not measured although it was before."""
        return self.outcome in ("worse", "missing")

    def sentence(self) -> str:
        """For people."""
        if self.outcome == "missing":
            return f"{self.key}: was {self.before:.4g}, is not measured now"
        if self.outcome == "new":
            return f"{self.key}: {self.value:.4g}, not in the baseline before (--update adds it)"
        told = f"{abs(self.change):.0%} {'worse' if self.change > 0 else 'better'}" if self.change else "as before"
        return f"{self.key}: {self.before:.4g} -> {self.value:.4g}, {told} (tolerance {self.tolerance:.0%})"


def judge_lines(lines: Sequence[BudgetLine], baseline: Mapping[str, float]) -> list[Judged]:
    """Each figure of a run beside the baseline's, and those that the rows of this run should have had."""
    rows = {line.row for line in lines}
    now = {_key(line): line for line in lines if line.met is not None and line.unit in COMPARABLE}
    judged = [_judge(key, line, baseline.get(key)) for key, line in now.items()]
    lost = [key for key in baseline if key not in now and key.partition(": ")[0] in rows]
    return judged + [Judged(key, "missing", math.nan, baseline[key], math.nan, 0.0) for key in lost]


def _judge(key: str, line: BudgetLine, before: float | None) -> Judged:
    tolerance = next((row.tolerance for row in ROWS if row.name == line.row), 0.0) if line.unit == "x" else 0.0
    if before is None:
        return Judged(key, "new", line.value, math.nan, math.nan, tolerance)
    change = worsening(line.value, before, line.bound)
    return Judged(key, decide(change, tolerance), line.value, before, change, tolerance)


def worsening(value: float, before: float, bound: str) -> float:
    """How much worse a figure is than before, as a share: 1 is twice as bad, -0.5 half as bad.

    Args:
        bound: `at most`, where less is better, or `at least`.
    """
    good, bad = (before, value) if bound == "at most" else (value, before)
    if good == bad:
        return 0.0
    return bad / good - 1 if good else math.inf


def decide(change: float, tolerance: float) -> Outcome:
    """Whether a change is within a tolerance. NaN counts as worse."""
    if not change <= tolerance:
        return "worse"
    return "better" if change < -tolerance / (1 + tolerance) else "as good"


def read_baseline(path: Path = BASELINE) -> dict[str, float]:
    """The baseline.

    Raises:
        BadInput: there is none, or it is damaged.
    """
    hint = "`python -m benchmarks.budget.check --update` writes it"
    try:
        document = json.loads(path.read_text("utf-8"))
        figures = {str(key): float(value) for key, value in document["figures"].items()}
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}", hint=hint) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is not a baseline: {error}", hint=hint) from error
    if document.get("format") != FORMAT:
        raise BadInput(f"{path} has another format", hint=hint)
    return figures


def write_baseline(lines: Sequence[BudgetLine], about: str, path: Path = BASELINE) -> None:
    """Make a run the baseline; rows that were not measured in it keep their figures."""
    kept = read_baseline(path) if path.is_file() else {}
    measured = {line.row for line in lines if line.met is not None}
    kept = {key: value for key, value in kept.items() if key.partition(": ")[0] not in measured}
    new = {_key(line): float(f"{line.value:.5g}") for line in lines if line.met is not None and _is_kept(line)}
    document: dict[str, Any] = {"format": FORMAT, "about": about, "figures": dict(sorted({**kept, **new}.items()))}
    path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


def _is_kept(line: BudgetLine) -> bool:
    return line.unit in COMPARABLE and math.isfinite(line.value)


def _key(line: BudgetLine) -> str:
    return f"{line.row}: {line.what}"

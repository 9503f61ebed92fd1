"""Verdicts and numbers as people read them: a check a line, those that did not pass first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from registry.evidence.number_text import bound_text, number
from registry.evidence.results import Metric
from registry.evidence.rule import DEFAULT_CONFIDENCE
from registry.evidence.verdict import Check, Verdict

Cells = tuple[str, str, str, str, str]
_STATUS, _WHY = 3, 4
_SIGNS = {"min": ">=", "max": "<=", "max_increase": "<=", "max_decrease": ">="}
_RELATIVE = {"max_increase": "stable + ", "max_decrease": "stable - "}
_OWN = {"past": "stable in staging before", "withdrawn": "not rolled back", "approvals": "approved by people"}
"""What is asked by the checks that are about no metric."""


def check_lines(verdict: Verdict, *, refusals_only: bool = False) -> list[str]:
    """The checks, one on each line, in columns: what, its value, what is asked, the status, and why. Those that one
    measurement would answer share a line.

    The status is `ok`; `FAIL`; `TOO FEW` samples; `NOT MEASURED`; `NO VALUE` where the value is not a number;
    `UNDECIDED` where the stable version was not measured on the same data.
    """
    return _aligned(_not_measured_together(check_cells(verdict, refusals_only=refusals_only)))


def check_cells(verdict: Verdict, *, refusals_only: bool = False) -> list[Cells]:
    """The same as rows of a table, a check each."""
    checks = [*verdict.refusals, *(() if refusals_only else _passed(verdict))]
    return [_cells(check) for check in checks]


def check_summary(verdict: Verdict) -> str:
    """How many checks did not pass."""
    refused, total = len(verdict.refusals), len(verdict.checks)
    if not total:
        return "nothing is asked"
    if not refused:
        return "1 check passes" if total == 1 else f"all {total} checks pass"
    return f"{refused} of {total} {'check' if total == 1 else 'checks'} {'does' if refused == 1 else 'do'} not pass"


def metric_text(metric: Metric) -> str:
    """A metric's value with its unit, interval and samples: `0.849 (95% CI 0.756-0.910, n=34)`."""
    if metric.value is None:
        return f"not a number (n={metric.n})"
    return f"{number(metric.value)}{metric.shown_unit} ({_samples(metric.low, metric.high, metric.n)})"


def named(metric: str, target: str | None) -> str:
    """A metric's name with its target: `accuracy (potato)`."""
    return f"{metric} ({target})" if target else metric


def _passed(verdict: Verdict) -> Iterable[Check]:
    return (check for check in verdict.checks if check.outcome == "pass")


def _not_measured_together(rows: Iterable[Cells]) -> list[Cells]:
    """The rows, with one for all that were not measured and would be by the same command."""
    together: dict[object, list[Cells]] = {}
    for number_of_row, row in enumerate(rows):
        together.setdefault(row[_WHY] if row[_STATUS] == "NOT MEASURED" else number_of_row, []).append(row)
    return [alike[0] if len(alike) == 1 else _summed(alike) for alike in together.values()]


def _summed(alike: Sequence[Cells]) -> Cells:
    first, *others = dict.fromkeys(row[0].partition(" (")[0] for row in alike)
    what = f"{first} and {len(others)} more" if others else first
    return what, "-", f"{len(alike)} checks", alike[0][_STATUS], alike[0][_WHY]


def _cells(check: Check) -> Cells:
    status = _status(check)
    value = "-" if check.observed is None else number(check.observed, check.bound)
    return named(check.metric, check.target), value, _asked(check), status, _why(check, status)


def _asked(check: Check) -> str:
    if check.metric in _OWN and "metric" not in check.rule:
        return _OWN[check.metric]
    kind = next((name for name in _SIGNS if check.rule.get(name) is not None), None)
    if kind is None:
        return "measured"
    if check.bound is not None:
        rule = f" ({_RELATIVE[kind]}{check.rule[kind]:g})" if kind in _RELATIVE else ""
        return f"{_SIGNS[kind]} {bound_text(check.bound, check.observed, is_relative=kind in _RELATIVE)}{rule}"
    nothing = " (no stable)" if kind in _RELATIVE and check.outcome == "pass" else ""
    return f"{_SIGNS[kind]} {_RELATIVE.get(kind, '')}{check.rule[kind]:g}{nothing}"


def _status(check: Check) -> str:
    if check.outcome == "pass":
        return "ok"
    if check.outcome == "inconclusive":
        return "TOO FEW" if check.bound is not None else "UNDECIDED"
    if "metric" in check.rule and check.observed is None:
        return "NOT MEASURED" if check.n is None else "NO VALUE"
    return "FAIL"


def _why(check: Check, status: str) -> str:
    """The rest of a line."""
    if status == "TOO FEW" and check.end is None:
        return f"n={check.n}, needs {check.rule.get('min_n')}"
    if status == "TOO FEW" and check.look:
        return f"{_sure(check)}, n={check.n}{_worst_of(check)}" + (
            f", needs {check.wanted_n}" if check.wanted_n else ""
        )
    if status == "TOO FEW":
        needs = check.wanted_n or ("another version" if check.observed == check.bound else "more")
        return f"{_sure(check)}, n={check.n}, needs {needs}"
    if status in ("NOT MEASURED", "NO VALUE"):
        return check.reason.partition(": ")[2]
    if check.n is None or status == "UNDECIDED":
        return check.reason
    samples = f"{_sure(check)}, n={check.n}" if check.end is not None else _samples(check.low, check.high, check.n)
    samples += _worst_of(check)
    why = check.rule.get("why")
    return f"{samples}; {why}" if status == "FAIL" and why else samples


def _worst_of(check: Check) -> str:
    """That others were measured too: which one this is."""
    if check.look and (check.measurements or 0) > 1:
        return f", measurement {check.look} of {check.measurements}"
    return f", the worst of {check.measurements} measurements" if (check.measurements or 0) > 1 else ""


def _sure(check: Check) -> str:
    """The end of a one-sided interval: `95% sure of >= 0.943`."""
    confidence = check.confidence or check.rule.get("confidence") or DEFAULT_CONFIDENCE
    sign = next((sign for kind, sign in _SIGNS.items() if check.rule.get(kind) is not None), "<=")
    return f"{100 * confidence:.6g}% sure of {sign} {number(check.end or 0.0, check.bound)}"


def _samples(low: float | None, high: float | None, n: int) -> str:
    return f"n={n}" if low is None or high is None else f"95% CI {number(low)}-{number(high)}, n={n}"


def _aligned(rows: Sequence[Cells]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

"""The lines of the table: a budget, what was measured of ours and of rivals, and whether it is met."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.budget.measuring import MeasuredRow
from benchmarks.budget.rows import BudgetRow, ShownBudget

HEADINGS = ("what", "ours", "rivals", "figure", "budget", "met", "n", "spread")
_LOST = "its command ran and said nothing of it"


@dataclass(frozen=True)
class BudgetLine:
    """One line.

    Attributes:
        value: the figure that has the budget; NaN if it was not measured.
        met: None if it was not measured.
        is_lost: whether its command ran, and did not report it.
        spread: the quartiles of ours, in words.
        reason: why it is missed or was not measured.
        scale: the share of requests, seconds or bytes that the budget is for.
    """

    row: str
    what: str
    value: float = math.nan
    unit: str = ""
    bound: str = ""
    limit: float = math.nan
    met: bool | None = None
    ours: str = ""
    rivals: str = ""
    n: int = 0
    spread: str = ""
    reason: str = ""
    scale: float = 1.0
    is_lost: bool = False

    @property
    def verdict(self) -> str:
        """In words."""
        if self.is_lost:
            return "not reported"
        judged = {True: "met", False: "NOT MET", None: "not measured"}[self.met]
        return judged if self.met is None or self.scale == 1 else f"{judged} at {self.scale:g} of the load"

    def cells(self) -> list[str]:
        """As text, by `HEADINGS`."""
        measured = self.met is not None
        return [
            f"{self.row}: {self.what}", self.ours, self.rivals,
            f"{_short(self.value)} {self.unit}" if measured else "",
            f"{self.bound} {_short(self.limit)}" if measured else "", self.verdict, str(self.n or ""), self.spread,
        ]  # fmt: skip

    def document(self) -> dict[str, Any]:
        """As JSON; a number that is none is null."""
        return {name: None if value != value else value for name, value in asdict(self).items()}  # noqa: PLR0124  NaN


def lines_of(row: BudgetRow, measured: MeasuredRow, *, quick: bool = False) -> list[BudgetLine]:
    """The lines of a row: one for each budget that it has, whether it was measured or not."""
    expected = row.expected(quick=quick)
    if measured.state != "measured":
        why = f"{measured.state}: {measured.why}" if measured.why else measured.state
        return [BudgetLine(row.name, one.begins, reason=why) for one in expected]
    lines = [_line(row, measured.result, budget) for budget in measured.result["budgets"]]
    lost = [one for one in expected if not any(line.what.startswith(one.begins) for line in lines)]
    return lines + [BudgetLine(row.name, one.begins, reason=_LOST, is_lost=True) for one in lost]


def ratios_of(row: BudgetRow, measured: MeasuredRow) -> list[BudgetLine]:
    """The figures of a row that have no budget but are compared, as lines without a limit."""
    figures = measured.result.get("figures", {})
    found = ((name, _number(figures.get(name)), bound) for name, bound in row.ratios)
    return [BudgetLine(row.name, name, value, "x", bound, met=True) for name, value, bound in found if value == value]  # noqa: PLR0124  NaN


def _line(row: BudgetRow, result: Mapping[str, Any], budget: Mapping[str, Any]) -> BudgetLine:
    what = str(budget["what"])
    shown = row.shown_for(what)
    times: Mapping[str, Any] = result["times"].get(shown.ours, {})
    value, met = _number(budget["value"]), bool(budget["met"])
    return BudgetLine(
        row=row.name, what=what, value=value, unit=str(budget["unit"]), bound=str(budget["bound"]),
        limit=_number(budget["limit"]), met=met, ours=_amount(result, shown.ours),
        rivals="; ".join(_rivals(result, shown)), n=int(times.get("n", 0)),
        spread=f"{_short(times['q25_ms'])} to {_short(times['q75_ms'])} ms" if times else "",
        reason="" if met else shown.reason, scale=_number(result.get("setting", {}).get("scale", 1.0)),
    )  # fmt: skip


def _rivals(result: Mapping[str, Any], shown: ShownBudget) -> Iterator[str]:
    for name in shown.rivals:
        amount = _amount(result, name)
        if amount:
            yield f"{_plain(name, shown.ours)} {amount}"


def _plain(name: str, ours: str) -> str:
    """A rival's name without what it was measured of, which is that of ours, and without how it is told."""
    parts, others = name.split(": "), ours.split(": ")
    while len(parts) > 1 and parts[0] == others[0]:
        parts, others = parts[1:], others[1:] or [""]
    return ": ".join(parts).partition(", median")[0]


def _amount(result: Mapping[str, Any], name: str) -> str:
    """A contender's median, or the first number of a figure; empty if the result has neither."""
    times = result["times"].get(name)
    if times:
        return f"{_short(times['median_ms'])} ms"
    figure = result["figures"].get(name)
    first = figure[0] if isinstance(figure, list) and figure else figure
    is_number = isinstance(first, int | float) and not isinstance(first, bool)
    return f"{_short(float(first))}{' ms' if name.endswith('ms') else ''}" if is_number else ""


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _short(value: float) -> str:
    """Three digits that count."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def as_text(lines: Sequence[BudgetLine]) -> str:
    """The table for a terminal: a line each, what stands beside below it."""
    out = []
    for line in lines:
        cells = dict(zip(HEADINGS, line.cells(), strict=True))
        out.append(f"{cells['met']:<12} {cells['what']}: {cells['figure']} ({cells['budget']})".replace(":  ()", ""))
        beside = {"ours": line.ours, "rivals": line.rivals, "n": cells["n"], "spread": line.spread}
        beside["reason"] = line.reason
        told = [f"{name} {value}" for name, value in beside.items() if value]
        if told:
            out.append(f"{'':<13}{'; '.join(told)}")
    return "\n".join(out)


def as_markdown(lines: Sequence[BudgetLine]) -> str:
    """The table for the page. What is missed is bold, with its reason or a place for it."""
    rows = [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    for line in lines:
        cells = dict(zip(HEADINGS, line.cells(), strict=True))
        if line.met is not True:
            cells["met"] = f"**{cells['met'].lower()}**: {line.reason or 'the reason is not known yet'}"
        rows.append(f"| {' | '.join(_cell(text) for text in cells.values())} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    """Text that stays inside a cell."""
    return " ".join(text.split()).replace("|", "\\|")

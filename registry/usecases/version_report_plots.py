"""The plots of a version's report: metrics with their intervals, and the bounds that the gates asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from registry.evidence.check_lines import named
from registry.evidence.number_text import number
from registry.evidence.results import PROPORTION, Evidence, Metric, newest
from registry.evidence.verdict import Verdict
from registry.formats.svg import WIDTH, PlotAxis, SvgDrawing

_COLOUR = "#4a6fa5"
_LEFT, _ROW = 270, 22
_MAX_ROWS = 60
"""Metrics of one plot: the table has all."""
_MAX_PLOTS = 12
_LARGEST = 1e12
"""A metric beyond this is in the table only: its axis would have no room for the others."""
_MAX_NAME = 38
Bounds = Mapping[tuple[str, str | None], Sequence[float]]


def metric_plots(evidence: Iterable[Evidence], verdicts: Iterable[Verdict]) -> tuple[str, ...]:
    """A plot for each benchmark, device, runtime and unit, of the newest evidence."""
    bounds = _bounds(verdicts)
    drawn = (
        _plot(one, unit, metrics, bounds)
        for one in newest(evidence).values()
        for unit, metrics in sorted(_by_unit(one.metrics).items())
    )
    return tuple(svg for svg, _ in zip(drawn, range(_MAX_PLOTS), strict=False))


def _bounds(verdicts: Iterable[Verdict]) -> dict[tuple[str, str | None], list[float]]:
    """What the checks of metrics compared with."""
    found: dict[tuple[str, str | None], list[float]] = {}
    for verdict in verdicts:
        for check in verdict.checks:
            if check.bound is not None and abs(check.bound) <= _LARGEST:
                known = found.setdefault((check.metric, check.target), [])
                if check.bound not in known:
                    known.append(check.bound)
    return found


def _by_unit(metrics: Iterable[Metric]) -> dict[str, list[Metric]]:
    """The metrics that have a value, those over all targets first; proportions and areas share an axis."""
    found: dict[str, list[Metric]] = {}
    for metric in sorted(metrics, key=lambda one: one.target is not None):
        if metric.value is not None and all(abs(end) <= _LARGEST for end in _ends(metric)):
            unit = "" if metric.unit in (PROPORTION, "area") else metric.unit
            found.setdefault(unit, []).append(metric)
    return found


def _plot(one: Evidence, unit: str, metrics: Sequence[Metric], bounds: Bounds) -> str:
    shown = metrics[:_MAX_ROWS]
    of_unit = f" in {unit}" if unit else ""
    more = f", {len(shown)} of {len(metrics)}" if len(metrics) > len(shown) else ""
    drawing = SvgDrawing(f"{one.benchmark}{of_unit} by {one.runtime} on {one.device}{more}"[:90])
    ends = [end for metric in shown for end in (*_ends(metric), *bounds.get((metric.name, metric.target), ()))]
    axis, top = _axis(min(ends), max(ends)), drawing.height
    for metric in shown:
        _row(drawing, axis, metric)
    drawing.scale(axis, top, f" {unit}" if unit else "")
    for number_of_row, metric in enumerate(shown):  # above the lines of the scale, which would hide them
        y = top + _ROW * number_of_row + _ROW / 2
        for bound in bounds.get((metric.name, metric.target), ()):
            drawing.line((axis.at(bound), y - 9), (axis.at(bound), y + 9), "margin")
    if any((metric.name, metric.target) in bounds for metric in shown):
        drawing.text(_LEFT, drawing.height + 8, "dashed: what the gates ask", small=True)
        drawing.height += 14
    return drawing.svg()


def _row(drawing: SvgDrawing, axis: PlotAxis, metric: Metric) -> None:
    low, value, high = _ends(metric)
    y = drawing.height + _ROW / 2
    name = named(metric.name, metric.target)
    drawing.text(0, y + 4, name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…")
    drawing.interval(axis, y, (low, value, high), _COLOUR)
    drawing.text(WIDTH, y + 4, number(value), anchor="end", small=True)
    drawing.height += _ROW


def _ends(metric: Metric) -> tuple[float, float, float]:
    """The lower end, the value and the upper end; a metric without an interval is a point."""
    value = metric.value or 0.0
    return (value if metric.low is None else metric.low), value, (value if metric.high is None else metric.high)


def _axis(low: float, high: float) -> PlotAxis:
    """An axis with some room beside what it shows."""
    room = max((high - low) * 0.05, abs(high) * 0.02, abs(low) * 0.02, 1e-9)
    return PlotAxis(low - room, high + room, left=_LEFT)

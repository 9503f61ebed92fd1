"""Figures of what was measured of two versions."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from registry.dashboard import text
from registry.dashboard.figures.style import (
    CANARY,
    GATE,
    GOAL,
    MUTED,
    STABLE,
    error_bars,
    rows_height,
    styled,
)
from registry.dashboard.versions import MetricRow, VersionComparison
from registry.evidence.check_lines import named
from registry.evidence.results import Metric

MAX_ROWS = 40
_SHARE = "share"
_BOUNDS = (
    ("goal", GOAL, "goal of the measured value"),
    ("gate", GATE, "gate on the end of the interval"),
    ("stable", MUTED, "stable with its allowance"),
)


def metric_figures(found: VersionComparison) -> dict[str, go.Figure]:
    """A figure for each unit: metrics of both versions with their intervals, stable, and the bounds of the gates."""
    groups: dict[str, list[MetricRow]] = {}
    for row in found.rows:
        if any(metric and metric.value is not None for metric in (row.older, row.newer)):
            groups.setdefault(row.unit or _SHARE, []).append(row)
    order = sorted(groups, key=lambda unit: (unit != _SHARE, unit))
    names = (found.diff.older, found.diff.newer, found.stable)
    return {unit: _figure(groups[unit][:MAX_ROWS], names, unit) for unit in order}


def paired_figure(found: VersionComparison) -> go.Figure | None:
    """The differences on the same images, with their intervals; None where none is known."""
    known = [each for each in found.diff.metrics if each.difference is not None and each.low is not None][:MAX_ROWS]
    if not known:
        return None
    known.reverse()
    value = [100 * (each.difference or 0.0) for each in known]
    low = [100 * each.low if each.low is not None else None for each in known]
    high = [100 * each.high if each.high is not None else None for each in known]
    hover = [
        f"{text.label(named(each.metric, each.target))}: {at:+.3g} points on {each.pairs:,} images"
        + (
            f"<br>only the newer: {each.newer_only:,}; only the older: {each.older_only:,}"
            if each.newer_only is not None
            else ""
        )
        for each, at in zip(known, value, strict=True)
    ]
    figure = go.Figure()
    figure.add_scatter(
        y=[text.label(named(each.metric, each.target)) for each in known], x=value, mode="markers",
        marker={"size": 10, "color": CANARY}, error_x=error_bars(value, low, high), hovertext=hover, hoverinfo="text",
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": MUTED, "width": 1})
    title = f"points: {text.label(found.diff.newer)} less {text.label(found.diff.older)}, 95% interval"
    return styled(figure, rows_height(len(known)), legend=False).update_xaxes(title=title)


def _figure(rows: Sequence[MetricRow], names: tuple[str, str, str], unit: str) -> go.Figure:
    figure, shown = go.Figure(), list(rows)[::-1]
    _add_metrics(figure, [row.older for row in shown], text.label(names[0]), STABLE, 0.16)
    _add_metrics(figure, [row.newer for row in shown], text.label(names[1]), CANARY, -0.16)
    if names[2]:
        _add_metrics(figure, [row.stable for row in shown], f"stable {text.label(names[2])}", MUTED, 0.0)
    for kind, colour, name in _BOUNDS:
        marks = [(place, bound) for place, row in enumerate(shown) for bound in row.bounds if bound.kind == kind]
        if marks:
            figure.add_scatter(
                y=[place for place, _ in marks], x=[bound.value for _, bound in marks], mode="markers", name=name,
                marker={"symbol": "line-ns-open", "size": 24, "color": colour, "line": {"width": 3}},
                hovertext=[f"{name}: {bound.said}" for _, bound in marks], hoverinfo="text",
            )  # fmt: skip
    styled(figure, rows_height(len(shown), 44), left=230)
    figure.update_yaxes(
        tickvals=list(range(len(shown))), ticktext=[text.label(row.name) for row in shown],
        range=[-0.6, len(shown) - 0.4],
    )  # fmt: skip
    figure.update_xaxes(title="" if unit == _SHARE else unit)
    if unit != _SHARE:
        figure.update_xaxes(rangemode="tozero")
    return figure


def _add_metrics(figure: go.Figure, metrics: list[Metric | None], name: str, colour: str, shift: float) -> None:
    known = [
        (place, metric, metric.value) for place, metric in enumerate(metrics) if metric and metric.value is not None
    ]
    value = [at for _, _, at in known]
    figure.add_scatter(
        y=[place + shift for place, _, _ in known], x=value, mode="markers", name=name,
        marker={"size": 10, "color": colour},
        error_x=error_bars(value, [metric.low for _, metric, _ in known], [metric.high for _, metric, _ in known]),
        hovertext=[f"{name}: {at:.4g} ({_interval(metric)}n = {metric.n:,})" for _, metric, at in known],
        hoverinfo="text",
    )  # fmt: skip


def _interval(metric: Metric) -> str:
    return f"{metric.low:.4g} to {metric.high:.4g}, " if metric.low is not None and metric.high is not None else ""

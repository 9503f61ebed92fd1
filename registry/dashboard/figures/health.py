"""Figures of how well operations go, what versions cost, and what they answered."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from registry.dashboard import text
from registry.dashboard.figures.style import (
    GATE,
    GOAL,
    MUTED,
    PALETTE,
    STABLE,
    colours,
    error_bars,
    rows_height,
    styled,
)
from registry.dashboard.health import CommandHealth, CostOfVersion, DayOfAnswers, DayOfChanges
from registry.evidence.stats import wilson

_DAY_MS = 86_400_000
_ENDS = (("done", GOAL), ("refused", "#b8860b"), ("failed", GATE), ("interrupted", MUTED))


def operations_figure(found: Sequence[CommandHealth]) -> go.Figure:
    """How the runs of each command ended."""
    shown, figure = list(found)[::-1], go.Figure()
    for name, colour in _ENDS:
        figure.add_bar(
            y=[text.label(each.command) for each in shown], x=[getattr(each, name) for each in shown], orientation="h",
            name=name, marker_color=colour, hovertemplate=f"%{{y}}: %{{x}} {name}<extra></extra>",
        )  # fmt: skip
    styled(figure, rows_height(len(shown)), left=110).update_layout(barmode="stack")
    return figure.update_xaxes(title="runs", rangemode="tozero")


def durations_figure(found: Sequence[CommandHealth]) -> go.Figure | None:
    """The median and the 95th percentile of the time that each command took; None where nothing was done."""
    shown = [each for each in reversed(found) if each.seconds is not None]
    if not shown:
        return None
    figure, names = go.Figure(), [text.label(each.command) for each in shown]
    for name, colour, values in (
        ("95th percentile", MUTED, [each.slow_seconds for each in shown]),
        ("median", STABLE, [each.seconds for each in shown]),
    ):
        figure.add_scatter(
            y=names, x=values, mode="markers", name=name,
            marker={"size": 9 if name == "median" else 15, "color": colour},
            hovertemplate=f"%{{y}}: {name} %{{x:.3g}} s<extra></extra>",
        )  # fmt: skip
    return styled(figure, rows_height(len(shown)), left=110).update_xaxes(title="seconds", rangemode="tozero")


def changes_figure(found: Sequence[DayOfChanges]) -> go.Figure:
    """The changes of each day."""
    figure = go.Figure()
    for channel, action in sorted({(each.channel, each.action) for each in found}):
        ours = [each for each in found if (each.channel, each.action) == (channel, action)]
        figure.add_bar(
            x=[f"{each.day:%Y-%m-%d}" for each in ours], y=[each.count for each in ours],
            name=f"{channel}: {text.label(action)}", hovertemplate="%{x}: %{y}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    styled(figure, 300, left=50).update_layout(barmode="stack")
    figure.update_xaxes(type="category", categoryorder="category ascending", title="day, UTC")
    most = max(
        (sum(each.count for each in found if each.day == day) for day in {each.day for each in found}), default=0
    )
    return figure.update_yaxes(title="changes", rangemode="tozero", dtick=1 if most <= 8 else None)


def costs_figure(found: Sequence[CostOfVersion], title: str) -> go.Figure:
    """One number of each version, with its interval."""
    shown = list(found)
    value = [each.metric.value or 0.0 for each in shown]
    figure = go.Figure()
    figure.add_scatter(
        x=[text.label(each.version, 40) for each in shown], y=value, mode="markers+lines",
        line={"color": "#c9d3de", "width": 1}, marker={"size": 10, "color": STABLE},
        error_y=error_bars(value, [each.metric.low for each in shown], [each.metric.high for each in shown]),
        hovertemplate="%{x}: %{y:.4g}<extra></extra>",
    )  # fmt: skip
    styled(figure, 280, left=60, legend=False)
    figure.update_xaxes(type="category", tickangle=-25 if len(shown) > 3 else 0)
    return figure.update_yaxes(title=title, rangemode="tozero")


def ood_figure(found: Sequence[DayOfAnswers]) -> go.Figure:
    """The OOD rate of each version on each day, in its answers through each channel."""
    shown, figure = [each for each in found if each.answered.answers], go.Figure()
    shade = colours([each.answered.version for each in shown])
    for channel, version in dict.fromkeys((each.channel, each.answered.version) for each in shown):
        ours = [one.answered for one in shown if (one.channel, one.answered.version) == (channel, version)]
        value = [100 * one.flagged / one.answers for one in ours]
        ends = [wilson(one.flagged, one.answers) for one in ours]
        figure.add_scatter(
            x=[one.day for one in ours], y=value, mode="markers+lines", name=f"{text.label(version)}, {channel}",
            marker={"size": 9, "color": shade[version]}, line={"width": 1, "color": shade[version]},
            error_y=error_bars(value, [100 * end.low for end in ends], [100 * end.high for end in ends]),
            hovertext=[f"{text.label(version)}: {one.flagged:,} of {one.answers:,} answers flagged" for one in ours],
            hoverinfo="text",
        )  # fmt: skip
    styled(figure, 320, left=60).update_xaxes(tickformat="%Y-%m-%d", dtick=_DAY_MS)
    return figure.update_yaxes(title="flagged as OOD, %", rangemode="tozero")


def labels_figure(found: Sequence[DayOfAnswers]) -> go.Figure:
    """The mix of labels of each version on each day."""
    figure, shown = go.Figure(), [each.answered for each in found if each.answered.labels]
    names = [f"{one.day:%Y-%m-%d}, {text.label(one.version, 24)}" for one in shown]
    labels = sorted({label for one in shown for label in one.labels})
    for number, label in enumerate(labels):
        share = [100 * one.labels.get(label, 0) / max(1, sum(one.labels.values())) for one in shown]
        figure.add_bar(
            y=names[::-1], x=share[::-1], orientation="h", name=text.label(label, 30),
            marker_color=PALETTE[number % len(PALETTE)], hovertemplate="%{y}: %{x:.3g}%<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    styled(figure, rows_height(len(names)), left=220).update_layout(barmode="stack")
    return figure.update_xaxes(title="% of the answers", range=[0, 100])

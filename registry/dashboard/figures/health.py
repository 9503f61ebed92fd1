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
from registry.dashboard.health import CommandHealth, CostOfVersion, DayOfChanges, LabelsOfStage, StageTraffic
from registry.evidence.stats import wilson

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


def ood_figure(found: Sequence[StageTraffic]) -> go.Figure:
    """The OOD rate of each version in each stage, by the day on which the stage began."""
    shown, figure = sorted((each for each in found if each.asked and each.began), key=_stage_order), go.Figure()
    shade = colours([each.version for each in shown])
    for version, colour in shade.items():
        ours = [each for each in shown if each.version == version]
        value = [100 * (each.share or 0.0) for each in ours]
        ends = [wilson(each.flagged, each.asked) for each in ours]
        figure.add_bar(
            x=[_stage_name(each) for each in ours], y=value, name=text.label(version), marker_color=colour,
            error_y=error_bars(value, [100 * end.low for end in ends], [100 * end.high for end in ends]),
            hovertext=[f"{text.label(version)}: {each.flagged:,} of {each.asked:,} units flagged" for each in ours],
            hoverinfo="text",
        )  # fmt: skip
    styled(figure, 320, left=60).update_layout(barmode="group", bargap=0.5)
    names = list(dict.fromkeys(_stage_name(each) for each in shown))
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=names)
    return figure.update_yaxes(title="flagged as OOD, %", rangemode="tozero")


def labels_figure(found: Sequence[LabelsOfStage]) -> go.Figure:
    """The mix of labels of each version in each stage."""
    figure = go.Figure()
    names = [f"{text.label(each.version, 24)}, g{each.generation}" for each in found]
    labels = sorted({label for each in found for label in each.labels})
    for number, label in enumerate(labels):
        share = [100 * each.labels.get(label, 0) / max(1, sum(each.labels.values())) for each in found]
        figure.add_bar(
            y=names[::-1], x=share[::-1], orientation="h", name=text.label(label, 30),
            marker_color=PALETTE[number % len(PALETTE)], hovertemplate="%{y}: %{x:.3g}%<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    styled(figure, rows_height(len(names)), left=150).update_layout(barmode="stack")
    return figure.update_xaxes(title="% of the answers", range=[0, 100])


def _stage_order(each: StageTraffic) -> tuple[str, str, int]:
    return f"{each.began:%Y-%m-%d}", each.channel, each.generation


def _stage_name(each: StageTraffic) -> str:
    return f"{each.began:%Y-%m-%d}<br>{text.label(each.channel, 20)}, generation {each.generation}"

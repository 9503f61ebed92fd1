"""Figures of a trial in progress."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import plotly.graph_objects as go

from registry.dashboard.figures.style import CANARY, GATE, MUTED, STABLE, error_bars, rows_height, styled
from registry.dashboard.now import EvidenceBar
from registry.evidence.trial_report import TrialReport
from registry.usecases.trial_tables import EVENT_NAMES

_LEAST, _MOST = -2.0, 8.0
"""Decimal logarithms of e-values that are drawn; others are at the edge."""


def evidence_figure(bars: Sequence[EvidenceBar]) -> go.Figure:
    """The e-values of the canary being worse, each with the mark from which on it decides."""
    shown = list(bars)[::-1]
    names = [bar.about for bar in shown]
    worse = [min(_MOST, max(_LEAST, bar.worse)) for bar in shown]
    hover = [
        f"{bar.about}<br>e-value of worse: {_e_value(bar.worse)}<br>of better: {_e_value(bar.better)}"
        f"<br>decides from {_e_value(bar.enough)}"
        for bar in shown
    ]
    colour = [GATE if bar.is_worse else CANARY for bar in shown]
    figure = go.Figure()
    figure.add_bar(
        y=names, x=worse, orientation="h", marker_color=colour, width=0.5, name="evidence that it is worse",
        hovertext=hover, hoverinfo="text",
    )  # fmt: skip
    figure.add_scatter(
        y=names, x=[bar.enough for bar in shown], mode="markers", name="enough to decide",
        marker={"symbol": "line-ns-open", "size": 22, "color": GATE, "line": {"width": 3}}, hoverinfo="skip",
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": MUTED, "width": 1})
    ends = [_LEAST, 0, 1, 2, 3, 4, 5, 6, _MOST]
    styled(figure, rows_height(len(shown)))
    top = max([3.5, *(bar.enough + 0.5 for bar in shown), *(value + 0.5 for value in worse)])
    return figure.update_xaxes(
        title="e-value (logarithmic)", tickvals=ends, ticktext=[_power(end) for end in ends], range=[_LEAST, top]
    )


def differences_figure(report: TrialReport) -> go.Figure | None:
    """The canary's share of each event less stable's, with intervals and the margin; None without any."""
    known = [(event, one.difference) for event, one in report.events.items() if one.difference]
    if not known:
        return None
    known.reverse()
    value = [100 * one.value for _, one in known]
    figure = go.Figure()
    figure.add_scatter(
        y=[EVENT_NAMES[event] for event, _ in known], x=value, mode="markers", name="canary less stable",
        marker={"size": 10, "color": CANARY},
        error_x=error_bars(value, [100 * one.low for _, one in known], [100 * one.high for _, one in known]),
        hovertemplate="%{y}: %{x:+.3g} points<extra></extra>",
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": MUTED, "width": 1})
    margin = 100 * report.horizon.margin
    figure.add_vline(x=margin, line={"color": GATE, "dash": "dash"})
    return styled(figure, rows_height(len(known)), legend=False).update_xaxes(
        title=f"points; dashed: margin {margin:g}"
    )


def compute_figure(report: TrialReport) -> go.Figure | None:
    """The p95 of compute over the last hour that is kept; None without windows."""
    figure = go.Figure()
    for name, colour in (("stable", STABLE), ("canary", CANARY)):
        arm = report.arms["stable" if name == "stable" else "canary"]
        if arm.series:
            figure.add_scatter(
                x=[datetime.fromtimestamp(point.at, UTC) for point in arm.series],
                y=[point.compute_p95 for point in arm.series], mode="lines", name=f"{name} {arm.version}",
                line={"color": colour, "width": 2}, hovertemplate="%{x|%H:%M:%S} UTC: %{y:.3g} ms<extra></extra>",
            )  # fmt: skip
    if not figure.data:
        return None
    styled(figure, 280, left=60).update_xaxes(title="UTC")
    return figure.update_yaxes(title="compute, p95 in ms", rangemode="tozero")


def _power(exponent: float) -> str:
    return f"{10**exponent:,.0f}" if 0 <= exponent <= 3 else f"10<sup>{exponent:g}</sup>"


def _e_value(exponent: float) -> str:
    return f"{10**exponent:.3g}" if abs(exponent) < 6 else f"10^{exponent:.0f}"

"""The timeline of the channels."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import plotly.graph_objects as go

from registry.dashboard import text
from registry.dashboard.figures.style import GATE, MUTED, colours, styled
from registry.dashboard.history import ChannelHistory, HistoryEntry, Stretch

_SYMBOLS = {"promote": "triangle-up", "canary": "circle", "advance": "diamond", "rollback": "x", "abort": "x"}
_MILLISECONDS = 1000


def timeline_figure(
    stretches: Sequence[Stretch], histories: Sequence[ChannelHistory], moment: datetime | None = None
) -> go.Figure:
    """What each channel served when, who changed it, and a line at the moment that is asked about."""
    figure, shade = go.Figure(), colours([each.version for each in stretches])
    rows = [row for history in reversed(histories) for row in _rows(history, stretches)]
    for version in sorted(shade):
        ours = [each for each in stretches if each.version == version]
        figure.add_bar(
            y=[_row(each.channel, each.role) for each in ours], base=[each.begin for each in ours],
            x=[(each.end - each.begin).total_seconds() * _MILLISECONDS for each in ours], orientation="h",
            marker={"color": shade[version], "line": {"width": 1, "color": "white"}}, name=text.label(version),
            text=[f"{text.label(each.version, 24)} {each.share}".strip() for each in ours], textposition="inside",
            insidetextanchor="middle", textfont={"color": "white", "size": 12}, width=0.62, showlegend=False,
            hovertext=[_stretch_text(each) for each in ours], hoverinfo="text", textangle=0,
        )  # fmt: skip
    _add_changes(figure, histories, set(rows))
    if moment is not None:
        figure.add_vline(x=moment, line={"color": GATE, "width": 2, "dash": "dot"})
    styled(figure, 120 + 56 * max(1, len(rows)), left=140)
    figure.update_layout(barmode="overlay", uniformtext={"minsize": 11, "mode": "hide"})
    figure.update_yaxes(categoryorder="array", categoryarray=rows, title="")
    return figure.update_xaxes(type="date", title="UTC")


def _rows(history: ChannelHistory, stretches: Sequence[Stretch]) -> list[str]:
    """The rows of a channel, from below."""
    has_trial = any((each.channel, each.role) == (history.channel, "canary") for each in stretches)
    return [*([_row(history.channel, "canary")] if has_trial else []), _row(history.channel, "stable")]


def _row(channel: str, role: str) -> str:
    return channel if role == "stable" else f"{channel} trial"


def _add_changes(figure: go.Figure, histories: Sequence[ChannelHistory], rows: set[str]) -> None:
    every = [entry for history in histories for entry in history.entries if entry.at and not entry.unread]
    for action, symbol in _SYMBOLS.items():
        ours = [entry for entry in every if entry.action == action]
        if ours:
            figure.add_scatter(
                y=[_row_of(entry, rows) for entry in ours], x=[entry.at for entry in ours], mode="markers", name=action,
                marker={
                    "symbol": symbol, "size": 11, "color": GATE if action in ("rollback", "abort") else "white",
                    "line": {"width": 1.5, "color": MUTED},
                },
                hovertext=[
                    f"{entry.action}, generation {entry.generation}<br>{text.label(entry.who, 80)}"
                    f"<br>{text.label(entry.reason, 120)}"
                    for entry in ours
                ],
                hoverinfo="text",
            )  # fmt: skip


def _row_of(entry: HistoryEntry, rows: set[str]) -> str:
    """The row of a change: that of the channel's trials for what begins or ends one."""
    trial = _row(entry.channel, "canary")
    return trial if entry.action in ("canary", "advance", "abort") and trial in rows else entry.channel


def _stretch_text(each: Stretch) -> str:
    lasted = text.duration((each.end - each.begin).total_seconds())
    share = f" ({each.share})" if each.share else ""
    return (
        f"{text.label(each.version)}{share}<br>{each.begin:%Y-%m-%d %H:%M} to {each.end:%Y-%m-%d %H:%M} UTC<br>{lasted}"
    )

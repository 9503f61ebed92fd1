"""How all figures look."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

STABLE, CANARY, GOAL, GATE, MUTED = "#2f5d8a", "#d1722c", "#1b7f3b", "#b00020", "#8a8f98"
PALETTE = ("#2f5d8a", "#d1722c", "#4b8b5d", "#8a5a9e", "#b8860b", "#3b8ea5", "#a54b5d", "#6b7280", "#7a8f2f", "#5b5fc7")
_GRID, _INK = "#e6e8eb", "#22262b"


def styled(figure: go.Figure, height: int, *, left: int = 190, legend: bool = True) -> go.Figure:
    """A figure with the common look: `height` and the margin for names at the left in pixels."""
    figure.update_layout(
        template="plotly_white", height=height, margin={"l": left, "r": 24, "t": 36 if legend else 12, "b": 48},
        font={"family": "Source Sans, system-ui, sans-serif", "size": 13, "color": _INK}, showlegend=legend,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "xanchor": "left", "x": 0},
        hoverlabel={"align": "left", "namelength": -1}, colorway=list(PALETTE),
    )  # fmt: skip
    figure.update_xaxes(gridcolor=_GRID, zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor=_GRID, zeroline=False, automargin=True)
    return figure


def rows_height(rows: int, each: int = 34) -> int:
    """The height of a figure with so many rows."""
    return 110 + each * max(1, rows)


def colours(names: list[str]) -> dict[str, str]:
    """A colour for each name; the same names get the same ones."""
    return {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(sorted(set(names)))}


def error_bars(value: list[float], low: list[float | None], high: list[float | None]) -> dict[str, Any]:
    """plotly's error bars from the ends of intervals; none where there is no interval."""
    up = [max(0.0, end - at) if end is not None else 0.0 for at, end in zip(value, high, strict=True)]
    down = [max(0.0, at - end) if end is not None else 0.0 for at, end in zip(value, low, strict=True)]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.6, "width": 4}

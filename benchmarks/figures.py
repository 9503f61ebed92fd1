"""New figures, and their bytes as PNG. matplotlib is imported only when one is drawn, and needs no display."""

from __future__ import annotations

import io
from typing import Any

_DPI = 100


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """A figure and its axes; an array of axes if there are several columns."""
    # Figure, not pyplot: pyplot keeps global state and may open a window.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    return figure, figure.subplots(1, columns)


def png(figure: Any) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

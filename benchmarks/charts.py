"""Charts: accuracy against depth, growth with a number of versions, differences with their intervals, a timeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from benchmarks.figures import new_figure, png

Line = Sequence[tuple[float, float]]
"""Points (x, y)."""
Interval = tuple[float, float, float]
"""A value, and the ends of its interval."""


def lines(
    curves: Mapping[str, Line],
    labels: tuple[str, str],
    title: str,
    *,
    marks: Mapping[str, tuple[float, float]] = MappingProxyType({}),
    logarithmic: bool = False,
) -> bytes:
    """One line with its points per name.

    Args:
        labels: of x and y.
        marks: single points, by name.
        logarithmic: whether both axes are.
    """
    figure, axes = new_figure(5.5, 3.8)
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, linewidth=1.2, label=name)
    for name, (x, y) in marks.items():
        axes.plot([x], [y], color="black", marker="x", markersize=8, linestyle="", label=name)
    if logarithmic:
        axes.set(xscale="log", yscale="log")
    axes.set(xlabel=labels[0], ylabel=labels[1], title=title)
    axes.legend(fontsize=7)
    return png(figure)


def differences(rows: Mapping[str, Interval], title: str) -> bytes:
    """Differences with their intervals, one row each, grey where zero is possible; and a line at zero."""
    figure, axes = new_figure(6.0, min(14.0, 1.6 + 0.3 * len(rows)))
    for place, (value, low, high) in enumerate(rows.values()):
        colour = "grey" if low <= 0 <= high else "C0"
        axes.plot([low, high], [place, place], color=colour, linewidth=1.5)
        axes.plot([value], [place], color=colour, marker="o", markersize=4)
    axes.axvline(0, color="black", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="newer less older, 95% interval", title=title)
    return png(figure)


def timeline(events: Mapping[str, Sequence[float]], label: str) -> bytes:
    """When each event happened in each of several rounds, and its median.

    Args:
        events: what happens -> the time of it in each round, in the order in which it happens.
        label: of the times.
    """
    figure, axes = new_figure(6.5, 1.4 + 0.45 * len(events))
    for place, (what, times) in enumerate(events.items()):
        middle = float(np.median(times))
        axes.plot([0, middle], [place, place], color="lightgrey", linewidth=4, zorder=0)
        axes.plot(times, [place] * len(times), color="C0", marker="o", markersize=5, linestyle="", alpha=0.6)
        axes.annotate(f"{what}: {middle:.3g}", (0, place), (0, 6), textcoords="offset points", fontsize=8)
    axes.set_yticks([])
    axes.invert_yaxis()
    axes.margins(y=0.3)
    axes.set(xlabel=label, xlim=(0, None))
    return png(figure)

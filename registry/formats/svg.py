"""Plots as SVG: no library draws them, and any browser and MLflow show them. All text is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape

WIDTH = 720
"""Pixels of every plot."""
LEFT, RIGHT = 170, 70
"""Pixels beside an axis: for names on the left, for values on the right."""
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}.small{font-size:11px;fill:#666}.axis{stroke:#bbb}"
    ".zero{stroke:#555}.margin{stroke:#b00020;stroke-dasharray:4 3}"
)


@dataclass(frozen=True)
class PlotAxis:
    """An axis from `low` to a larger `high`, on the width of the plot."""

    low: float
    high: float
    left: float = LEFT
    right: float = WIDTH - RIGHT

    def at(self, value: float) -> float:
        """Where a value is, in pixels; one outside is at the end."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.left + min(1.0, max(0.0, share)) * (self.right - self.left), 1)

    def ticks(self) -> list[float]:
        """Round numbers on it, about five."""
        step = _round_step((self.high - self.low) / 5)
        first = math.ceil(round(self.low / step, 6))
        return [number * step for number in range(first, math.floor(round(self.high / step, 6)) + 1)]


@dataclass
class SvgDrawing:
    """An SVG that grows downwards."""

    title: str
    parts: list[str] = field(default_factory=list)
    height: float = 30.0

    def text(self, x: float, y: float, said: str, *, anchor: str = "start", small: bool = False) -> None:
        """A text at a place."""
        kind = ' class="small"' if small else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}>{escape(said)}</text>')

    def line(self, start: tuple[float, float], end: tuple[float, float], kind: str) -> None:
        """A line; `kind` is a class of the style: `axis`, `zero` or `margin`."""
        self.parts.append(f'<line x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" class="{kind}"/>')

    def interval(self, axis: PlotAxis, y: float, ends: tuple[float, float, float], colour: str) -> None:
        """A value with the ends of its interval: low, value, high."""
        low, value, high = map(axis.at, ends)
        self.parts.append(
            f'<g stroke="{colour}" stroke-width="2"><line x1="{low:g}" y1="{y:g}" x2="{high:g}" y2="{y:g}"/>'
            f'<circle cx="{value:g}" cy="{y:g}" r="4" fill="{colour}"/></g>'
        )

    def scale(self, axis: PlotAxis, top: float, unit: str) -> None:
        """The axis below what was drawn, with thin lines up to `top`."""
        for tick in axis.ticks():
            x = axis.at(tick)
            self.line((x, top), (x, self.height), "zero" if tick == 0 and axis.low < 0 else "axis")
            self.text(x, self.height + 14, f"{tick:.6g}{unit}", anchor="middle", small=True)
        self.height += 26

    def legend(self, colours: Iterable[tuple[str, str]]) -> None:
        """What each colour stands for, in the line of the title."""
        for number, (name, colour) in enumerate(colours):
            x = WIDTH - 150 + 78 * number
            self.parts.append(f'<circle cx="{x}" cy="13" r="4" fill="{colour}"/>')
            self.text(x + 8, 17, name, small=True)

    def svg(self) -> str:
        """The whole."""
        title = f'<text x="0" y="17" style="font-weight:600">{escape(self.title)}</text>'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height + 6:g}" width="{WIDTH}" '
            f'role="img" aria-label="{escape(self.title)}"><style>{_STYLE}</style>'
            f'<rect width="100%" height="100%" fill="#fff"/>{title}{"".join(self.parts)}</svg>\n'
        )


def _round_step(about: float) -> float:
    """1, 2 or 5 times a power of ten, near a number above 0."""
    power = 10.0 ** math.floor(math.log10(about))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= about * 0.999)

"""The plots of a trial's report, as SVG: no library draws them, and any browser and MLflow show them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from registry.evidence.number_text import points as in_points
from registry.evidence.trial_figures import ArmFigures
from registry.evidence.trial_report import TrialReport
from registry.trials.observations import WINDOW_SECONDS, ArmName
from registry.usecases.trial_tables import EVENT_NAMES

_COLOURS: Mapping[ArmName, str] = {"stable": "#4a6fa5", "canary": "#d1722c"}
_WIDTH, _LEFT, _RIGHT = 720, 170, 70
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}.small{font-size:11px;fill:#666}.axis{stroke:#bbb}"
    ".zero{stroke:#555}.margin{stroke:#b00020;stroke-dasharray:4 3}"
)


@dataclass(frozen=True)
class _Axis:
    """A horizontal axis from `low` to `high`, on the width of the plot."""

    low: float
    high: float
    left: float = _LEFT
    right: float = _WIDTH - _RIGHT

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
class _Drawing:
    """An SVG that grows downwards."""

    title: str
    parts: list[str] = field(default_factory=list)
    height: float = 30.0

    def text(self, x: float, y: float, said: str, *, anchor: str = "start", small: bool = False) -> None:
        kind = ' class="small"' if small else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}>{escape(said)}</text>')

    def line(self, start: tuple[float, float], end: tuple[float, float], kind: str) -> None:
        self.parts.append(f'<line x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" class="{kind}"/>')

    def interval(self, axis: _Axis, y: float, ends: tuple[float, float, float], colour: str) -> None:
        """A value with the ends of its interval: low, value, high."""
        low, value, high = map(axis.at, ends)
        self.parts.append(
            f'<g stroke="{colour}" stroke-width="2"><line x1="{low:g}" y1="{y:g}" x2="{high:g}" y2="{y:g}"/>'
            f'<circle cx="{value:g}" cy="{y:g}" r="4" fill="{colour}"/></g>'
        )

    def scale(self, axis: _Axis, top: float, unit: str) -> None:
        """The axis below what was drawn, with thin lines up to `top`."""
        for tick in axis.ticks():
            x = axis.at(tick)
            self.line((x, top), (x, self.height), "zero" if tick == 0 and axis.low < 0 else "axis")
            self.text(x, self.height + 14, f"{tick:.6g}{unit}", anchor="middle", small=True)
        self.height += 26

    def legend(self) -> None:
        """Which colour is which arm, in the line of the title."""
        for number, (name, colour) in enumerate(_COLOURS.items()):
            x = _WIDTH - 150 + 78 * number
            self.parts.append(f'<circle cx="{x}" cy="13" r="4" fill="{colour}"/>')
            self.text(x + 8, 17, name, small=True)

    def svg(self) -> str:
        """The whole."""
        title = f'<text x="0" y="17" style="font-weight:600">{escape(self.title)}</text>'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {self.height + 6:g}" width="{_WIDTH}" '
            f'role="img" aria-label="{escape(self.title)}"><style>{_STYLE}</style>'
            f'<rect width="100%" height="100%" fill="#fff"/>{title}{"".join(self.parts)}</svg>\n'
        )


def plots(report: TrialReport) -> dict[str, str]:
    """The plots by the names of their files; those without any data are left out."""
    found = {"rates.svg": _rates(report), "differences.svg": _differences(report), "compute.svg": _compute(report)}
    return {name: svg for name, svg in found.items() if svg}


def _rates(report: TrialReport) -> str:
    """The share of each event in both arms, each with an axis of its own: errors are much rarer than flags."""
    drawing = _Drawing("Shares of units, with 95% intervals")
    drawing.legend()
    for event, name in EVENT_NAMES.items():
        rates = {arm: figures.rates[event] for arm, figures in report.arms.items()}
        if not any(rate.n for rate in rates.values()):
            continue
        axis, top = _Axis(0, 105 * max(rate.high for rate in rates.values() if rate.n)), drawing.height
        drawing.text(0, top + 24, name)
        for number, (arm, rate) in enumerate(rates.items()):
            if rate.value is not None:
                y = top + 13 + 18 * number
                drawing.interval(axis, y, (100 * rate.low, 100 * rate.value, 100 * rate.high), _COLOURS[arm])
                drawing.text(_WIDTH, y + 4, f"{100 * rate.value:.3g}%", anchor="end", small=True)
        drawing.height += 42
        drawing.scale(axis, top + 4, "%")
    return drawing.svg() if drawing.height > 30 else ""


def _differences(report: TrialReport) -> str:
    """The canary's share of each event less stable's, and the margin of what is known by labels."""
    known = [(event, one.difference) for event, one in report.events.items() if one.difference]
    if not known:
        return ""
    margin = 100 * report.horizon.margin
    most = max(1.2 * margin, *(100 * max(abs(one.low), abs(one.high)) for _, one in known))
    axis = _Axis(-most, most)
    drawing = _Drawing("The canary's share less stable's, in points: to the right is worse")
    top = drawing.height
    for event, one in known:
        y = drawing.height + 14
        drawing.text(0, y + 4, EVENT_NAMES[event])
        drawing.interval(axis, y, (100 * one.low, 100 * one.value, 100 * one.high), _COLOURS["canary"])
        drawing.text(_WIDTH, y + 4, f"{100 * one.value:+.3g}", anchor="end", small=True)
        drawing.height += 24
    drawing.line((axis.at(margin), top), (axis.at(margin), drawing.height), "margin")
    drawing.height += 6
    drawing.scale(axis, top, "")
    drawing.text(_LEFT, drawing.height + 8, f"dashed: the margin, {in_points(report.horizon.margin)}", small=True)
    drawing.height += 14
    return drawing.svg()


def _compute(report: TrialReport) -> str:
    """The p95 of compute over the last hour that is kept, of both arms."""
    points = [point for arm in report.arms.values() for point in arm.series]
    if len(points) < 2:
        return ""
    start, end = min(point.at for point in points), max(point.at for point in points) + WINDOW_SECONDS
    across = _Axis(0, (end - start) / 60, left=50)
    top, bottom, highest = 40.0, 220.0, 1.1 * max(point.compute_p95 for point in points) or 1.0
    drawing = _Drawing("Compute time, p95 of ten seconds, in milliseconds", height=bottom)
    drawing.legend()
    upward = _Axis(0, highest, left=bottom, right=top)
    for tick in upward.ticks():
        drawing.line((across.left, upward.at(tick)), (across.right, upward.at(tick)), "axis")
        drawing.text(across.left - 6, upward.at(tick) + 4, f"{tick:.6g}", anchor="end", small=True)
    for name, figures in report.arms.items():
        drawing.parts += _lines(figures, start, across, upward, _COLOURS[name])
    drawing.scale(across, bottom - 4, " min")
    return drawing.svg()


def _lines(figures: ArmFigures, start: int, across: _Axis, upward: _Axis, colour: str) -> Iterator[str]:
    """A line for each run of windows without a gap."""
    for run in _runs([point.at for point in figures.series]):
        values = {point.at: point.compute_p95 for point in figures.series}
        places = " ".join(f"{across.at((at - start) / 60):g},{upward.at(values[at]):g}" for at in run)
        if len(run) == 1:
            x, y = places.split(",")
            yield f'<circle cx="{x}" cy="{y}" r="2" fill="{colour}"/>'
        else:
            yield f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _runs(times: Sequence[int]) -> list[list[int]]:
    found: list[list[int]] = []
    for at in times:
        if found and at - found[-1][-1] == WINDOW_SECONDS:
            found[-1].append(at)
        else:
            found.append([at])
    return found


def _round_step(about: float) -> float:
    """1, 2 or 5 times a power of ten, near a number above 0."""
    power = 10.0 ** math.floor(math.log10(about))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= about * 0.999)

"""The plots of a trial's report, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from registry.evidence.number_text import points as in_points
from registry.evidence.trial_figures import ArmFigures
from registry.evidence.trial_report import TrialReport
from registry.formats.svg import LEFT, WIDTH, PlotAxis, SvgDrawing
from registry.trials.observations import WINDOW_SECONDS, ArmName
from registry.usecases.trial_tables import EVENT_NAMES

_COLOURS: Mapping[ArmName, str] = {"stable": "#4a6fa5", "canary": "#d1722c"}


def plots(report: TrialReport) -> dict[str, str]:
    """The plots by the names of their files; those without any data are left out."""
    found = {"rates.svg": _rates(report), "differences.svg": _differences(report), "compute.svg": _compute(report)}
    return {name: svg for name, svg in found.items() if svg}


def _rates(report: TrialReport) -> str:
    """The share of each event in both arms, each with an axis of its own: errors are much rarer than flags."""
    drawing = SvgDrawing("Shares of units, with 95% intervals")
    drawing.legend(_COLOURS.items())
    for event, name in EVENT_NAMES.items():
        rates = {arm: figures.rates[event] for arm, figures in report.arms.items()}
        if not any(rate.n for rate in rates.values()):
            continue
        axis, top = PlotAxis(0, 105 * max(rate.high for rate in rates.values() if rate.n)), drawing.height
        drawing.text(0, top + 24, name)
        for number, (arm, rate) in enumerate(rates.items()):
            if rate.value is not None:
                y = top + 13 + 18 * number
                drawing.interval(axis, y, (100 * rate.low, 100 * rate.value, 100 * rate.high), _COLOURS[arm])
                drawing.text(WIDTH, y + 4, f"{100 * rate.value:.3g}%", anchor="end", small=True)
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
    axis = PlotAxis(-most, most)
    drawing = SvgDrawing("The canary's share less stable's, in points: to the right is worse")
    top = drawing.height
    for event, one in known:
        y = drawing.height + 14
        drawing.text(0, y + 4, EVENT_NAMES[event])
        drawing.interval(axis, y, (100 * one.low, 100 * one.value, 100 * one.high), _COLOURS["canary"])
        drawing.text(WIDTH, y + 4, f"{100 * one.value:+.3g}", anchor="end", small=True)
        drawing.height += 24
    drawing.line((axis.at(margin), top), (axis.at(margin), drawing.height), "margin")
    drawing.height += 6
    drawing.scale(axis, top, "")
    drawing.text(LEFT, drawing.height + 8, f"dashed: the margin, {in_points(report.horizon.margin)}", small=True)
    drawing.height += 14
    return drawing.svg()


def _compute(report: TrialReport) -> str:
    """The p95 of compute over the last hour that is kept, of both arms."""
    points = [point for arm in report.arms.values() for point in arm.series]
    if len(points) < 2:
        return ""
    start, end = min(point.at for point in points), max(point.at for point in points) + WINDOW_SECONDS
    across = PlotAxis(0, (end - start) / 60, left=50)
    top, bottom, highest = 40.0, 220.0, 1.1 * max(point.compute_p95 for point in points) or 1.0
    drawing = SvgDrawing("Compute time, p95 of ten seconds, in milliseconds", height=bottom)
    drawing.legend(_COLOURS.items())
    upward = PlotAxis(0, highest, left=bottom, right=top)
    for tick in upward.ticks():
        drawing.line((across.left, upward.at(tick)), (across.right, upward.at(tick)), "axis")
        drawing.text(across.left - 6, upward.at(tick) + 4, f"{tick:.6g}", anchor="end", small=True)
    for name, figures in report.arms.items():
        drawing.parts += _lines(figures, start, across, upward, _COLOURS[name])
    drawing.scale(across, bottom - 4, " min")
    return drawing.svg()


def _lines(figures: ArmFigures, start: int, across: PlotAxis, upward: PlotAxis, colour: str) -> Iterator[str]:
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

"""The tables of a trial's report, as text: the command line, the page and MLflow show the same ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

from registry.evidence.arm_stats import ShareDifference
from registry.evidence.trial_differences import Looks
from registry.evidence.trial_figures import TRIAL_EVENTS, ArmFigures, ObservedRate, TrialEvent
from registry.evidence.trial_report import TrialReport
from registry.formats.counts import counted
from registry.formats.report_parts import ReportTable

EVENT_NAMES: Mapping[TrialEvent, str] = {
    "error": "errors",
    "flagged": "flagged as OOD",
    "wrong": "wrong, of labelled",
    "alarmed": "flagged, of labelled",
    "missed": "not flagged, of _ood",
}
_LARGEST_E = 1e6
_SMALLEST_P = 1e-4


def facts_of(report: TrialReport) -> dict[str, str]:
    """What the report is about."""
    trial, end = report.trial, report.trial.end
    stages = ", ".join(f"{stage.percent:g}% in generation {stage.generation}" for stage in report.stages)
    state = f"{report.labelled:,} of {report.horizon.units:,} labelled units of either version"
    return {
        "trial": f"{trial.kind}, {trial.id}",
        "versions": f"{trial.canary} beside {trial.stable} in {trial.channel}",
        "since": trial.since,
        "shares": stages,
        "ended": f"{end.action} by {end.who}, {end.when}, generation {end.generation}" if end else "",
        "why": end.reason if end else "",
        "decision": end.decision if end else "",
        "replicas": str(report.replicas),
        "horizon": f"{'reached' if report.is_at_horizon else 'not reached'}: {state}",
        "asked for": str(report.horizon),
    }


def tables_of(report: TrialReport) -> list[ReportTable]:
    """All tables of a report; one without rows is left out."""
    found = [
        _arms(report),
        _differences(report),
        _shares(report),
        _unit_pairs(report),
        _labels(report),
        _counters(report),
    ]
    return [each for each in found if each.rows]


def _arms(report: TrialReport) -> ReportTable:
    arms = [report.arms["stable"], report.arms["canary"]]
    rows = [
        ("units that asked", *(f"{arm.asked:,}" for arm in arms)),
        ("requests counted", *(f"{arm.requests:,}" for arm in arms)),
        ("units with a label", *(f"{arm.labelled:,}" for arm in arms)),
        ("units with the label _ood", *(f"{arm.ood:,}" for arm in arms)),
        *((EVENT_NAMES[event], *(_rate(arm.rates[event]) for arm in arms)) for event in TRIAL_EVENTS),
        ("AUROC of the OOD flag", *(_number(arm.ood_auroc) for arm in arms)),
        *((f"{kind} p50 / p95, ms", *(_times(arm, kind) for arm in arms)) for kind in ("compute", "request")),
        ("windows of 10 s, last hour", *(str(arm.windows) for arm in arms)),
        ("largest adapter, MB", *(_number(arm.memory_mb) for arm in arms)),
    ]
    return ReportTable(
        "versions", "What each version did", ("", f"stable {arms[0].version}", f"canary {arms[1].version}"), tuple(rows)
    )


def _differences(report: TrialReport) -> ReportTable:
    rows = [
        (EVENT_NAMES[event], *_difference(one.difference), *_looks(one.looks)) for event, one in report.events.items()
    ]
    time = report.time
    slower = f"slower in {time.slower} of {counted(time.windows, 'window')}"
    ratio = "-" if time.ratio is None else f"x {time.ratio:.3g}"
    rows.append(("compute time", ratio, slower, chance(time.p_value), *_looks(time.looks)))
    level = f"{100 * (1 - report.horizon.significance):g}% INTERVAL"
    return ReportTable(
        "differences",
        "The canary against stable",
        ("MORE IS WORSE", "DIFFERENCE", level, "P", "E WORSE", "E BETTER", "ENOUGH"),
        tuple(rows),
    )


def _difference(found: ShareDifference | None) -> tuple[str, str, str]:
    if found is None:
        return ("-", "-", "-")
    interval = f"{100 * found.low:+.3g} to {100 * found.high:+.3g}"
    return f"{100 * found.value:+.3g} points", interval, chance(found.p_value)


def _looks(looks: Looks) -> tuple[str, str, str]:
    return evidence(looks.log_worse), evidence(looks.log_better), f"{1 / looks.alpha:.3g}"


def _shares(report: TrialReport) -> ReportTable:
    rows = tuple(
        (
            str(each.generation), each.event, f"{each.found.x:,} of {each.found.n:,}",
            f"{100 * each.share:.3g}%" if each.found.n else "-", f"{100 * each.found.share:g}%",
            evidence(each.found.log_bayes), chance(each.found.p_value),
        )
        for each in report.shares
    )  # fmt: skip
    header = ("GENERATION", "UNITS", "THE CANARY'S", "SHARE", "SHOULD BE", "BAYES FACTOR", "P")
    return ReportTable("shares", "Whether each arm has its share (broken: Bayes factor 1,000)", header, rows)


def _unit_pairs(report: TrialReport) -> ReportTable:
    rows = tuple(
        (
            EVENT_NAMES[event], f"{pairs.n:,}", f"{pairs.both:,}", f"{pairs.canary_only:,}", f"{pairs.stable_only:,}",
            f"{pairs.n - pairs.both - pairs.canary_only - pairs.stable_only:,}",
        )
        for event, one in report.events.items()
        if (pairs := one.pairs)
    )  # fmt: skip
    header = ("UNITS", "BOTH SAW", "WITH BOTH", "CANARY ONLY", "STABLE ONLY", "WITH NEITHER")
    return ReportTable("pairs", "The same images, seen by both", header, rows)


def _labels(report: TrialReport) -> ReportTable:
    found = report.labels
    if found is None:
        return ReportTable("labels", "", (), ())
    title = f"Labels: {found.equal:,} times equal, {found.different:,} times not; the most frequent of these"
    rows = tuple((older, newer, f"{count:,}") for older, newer, count in found.most)
    return ReportTable("labels", title, ("STABLE SAYS", "CANARY SAYS", "TIMES"), rows)


def _counters(report: TrialReport) -> ReportTable:
    arms = [report.arms["stable"], report.arms["canary"]]
    names = sorted({name for arm in arms for name in arm.counters})
    rows = tuple((name, *(f"{arm.counters.get(name, 0):,}" for arm in arms)) for name in names)
    return ReportTable("outcomes", "Requests by outcome", ("OUTCOME", "STABLE", "CANARY"), rows)


# --- numbers ---------------------------------------------------------------------------------------------------------


def chance(p_value: float) -> str:
    """A p-value, for people."""
    return f"{p_value:.2g}" if p_value >= _SMALLEST_P else f"< {_SMALLEST_P:g}"


def evidence(logarithm: float) -> str:
    """An e-value or a Bayes factor by its natural logarithm, for people."""
    found = math.exp(min(logarithm, 700.0))
    return f"{found:.3g}" if found < _LARGEST_E else f"10^{logarithm / math.log(10):.0f}"


def _rate(rate: ObservedRate) -> str:
    if rate.value is None:
        return "-"
    return f"{100 * rate.value:.3g}% ({100 * rate.low:.3g} to {100 * rate.high:.3g}), {rate.x:,} of {rate.n:,}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _times(arm: ArmFigures, kind: str) -> str:
    known = [arm.times.get(f"{kind}_{quantile}") for quantile in ("p50", "p95")]
    return "-" if known == [None, None] else " / ".join(map(_number, known))

"""The run in MLflow that shows a report of a trial."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from registry.catalog import tags
from registry.catalog.run_writer import ResultRun, RunContent
from registry.catalog.tables import ENDING, table
from registry.evidence.trial_report import TrialReport
from registry.usecases.trial_page import page
from registry.usecases.trial_plots import plots
from registry.usecases.trial_tables import tables_of


def run_of(report: TrialReport, who: str) -> ResultRun:
    """The run: the same report is recorded once."""
    trial, verdict = report.trial, report.verdict.outcome
    return ResultRun(
        entry_point="canary report",
        title=f"{trial.canary} beside {trial.stable}: {verdict}",
        content=RunContent(
            params=_params(report), metrics=dict(_metrics(report)), curves=dict(_curves(report)), files=_files(report)
        ),
        who=who,
        tags={
            tags.TRIAL_ID: trial.id, tags.REPORT: report.sha256, "ulora.stable": trial.stable,
            "ulora.canary": trial.canary, "ulora.channel": trial.channel, "ulora.verdict": verdict,
        },
        command="ulora canary report",
        once=tags.REPORT,
    )  # fmt: skip


def _params(report: TrialReport) -> dict[str, str]:
    trial = report.trial
    found = {
        "trial": trial.id, "kind": trial.kind, "channel": trial.channel, "stable": trial.stable,
        "canary": trial.canary, "verdict": report.verdict.outcome, "reasons": "; ".join(report.verdict.reasons),
        "policy": report.policy, "horizon": str(report.horizon),
    }  # fmt: skip
    return {f"ulora.{name}": value for name, value in found.items()}


def _metrics(report: TrialReport) -> Iterator[tuple[str, float]]:
    """In groups by what stands before the slash, as MLflow's page shows them."""
    for name, arm in report.arms.items():
        yield from ((f"{name}/{unit}_units", getattr(arm, unit)) for unit in ("asked", "labelled", "ood"))
        yield from ((f"{name}/{event}_rate", rate.value) for event, rate in arm.rates.items() if rate.value is not None)
        yield from ((f"{name}/{time}_ms", value) for time, value in arm.times.items())
        known = {"ood_auroc": arm.ood_auroc, "adapter_memory_mb": arm.memory_mb}
        yield from ((f"{name}/{metric}", value) for metric, value in known.items() if value is not None)
    for event, one in report.events.items():
        if found := one.difference:
            yield f"difference/{event}_rate", found.value
            yield f"low/{event}_rate", found.low
            yield f"high/{event}_rate", found.high
            yield f"p/{event}_rate", found.p_value
        yield f"log_e_worse/{event}_rate", one.looks.log_worse
        yield f"log_e_better/{event}_rate", one.looks.log_better
    if report.time.ratio is not None:
        yield "difference/compute_ratio", report.time.ratio
        yield "p/compute_ratio", report.time.p_value
    yield "horizon/labelled_units", report.labelled
    yield "horizon/is_reached", float(report.is_at_horizon)


def _curves(report: TrialReport) -> Iterator[tuple[str, Mapping[int, float]]]:
    """Of both arms over the same seconds."""
    start = min((point.at for arm in report.arms.values() for point in arm.series), default=0)
    for name, arm in report.arms.items():
        if arm.series:
            yield f"{name}/compute_p95_over_seconds", {point.at - start: point.compute_p95 for point in arm.series}


def _files(report: TrialReport) -> dict[str, bytes]:
    found = {name: svg.encode() for name, svg in plots(report).items()}
    found["report.html"] = page(report).encode("utf-8", "replace")
    found["report.json"] = json.dumps(report.document(), indent=2, ensure_ascii=False).encode()
    tables = {each.name: table([column or "what" for column in each.header], each.rows) for each in tables_of(report)}
    return found | {f"{name}{ENDING}": body for name, body in tables.items()}

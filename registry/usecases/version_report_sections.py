"""What a version's report says, part by part, before it is a page or Markdown. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from registry.channels.record import Record
from registry.evidence.check_lines import check_cells, check_summary
from registry.evidence.differences import MetricDifference
from registry.evidence.number_text import number
from registry.evidence.results import Evidence, Metric, newest
from registry.evidence.trial_report import TrialReport
from registry.evidence.verdict import Verdict
from registry.formats.counts import counted
from registry.formats.report_parts import ReportSection, ReportTable, shortened
from registry.usecases.diff import VersionDiff
from registry.usecases.trial_plots import plots
from registry.usecases.trial_tables import facts_of, tables_of
from registry.usecases.version_report import VersionReport
from registry.usecases.version_report_plots import metric_plots
from registry.versions.changes import ManifestChanges

_MAX_ROWS = 200
"""Rows of one table: a report is for reading, and `--json` has all."""
_MAX_TEXT = 2000
_MAX_NOTES = 20


def title_of(report: VersionReport) -> str:
    """What it is a report of."""
    return f"{report.manifest.model} {report.manifest.version}"


def sections_of(report: VersionReport) -> list[ReportSection]:
    """The parts, some of them empty."""
    return [
        _identity(report),
        _standing(report),
        _changes(report.before),
        _evidence(report),
        *map(_gates, report.verdicts),
        *map(_trial, report.trials),
        _incidents(report),
        _people(report),
        ReportSection("History", tables=_tables(_history(report.records))),
        ReportSection("What could not be read", lines=report.unread[:_MAX_ROWS]),
    ]


def _identity(report: VersionReport) -> ReportSection:
    manifest, backbone = report.manifest, report.manifest.backbone
    facts = {
        "model": manifest.model,
        "version": manifest.version,
        "made": f"{manifest.timestamp}{f' from {manifest.source}' if manifest.source else ''}",
        "description": manifest.description,
        "parent": manifest.parent.version if manifest.parent else "",
        "breaking": "; ".join(manifest.breaking_changes),
        "compatible": manifest.backward_compatibility,
        "to test": manifest.testing_instructions,
        "backbone": f"{backbone.name} ({backbone.family}, {backbone.sha256[:12]})" if backbone else "",
        "components": ", ".join(sorted(manifest.components)),
        "files": f"{counted(len(manifest.files), 'file')}, {manifest.size / 1e6:.2f} MB",
        "content": manifest.content_sha256,
        "manifest": report.manifest_sha256,
        "signatures": f"{len(report.signatures)} stored" if report.signatures else "none",
        "forgotten": report.forgotten,
    }
    notes = {name: json.dumps(value, ensure_ascii=False) for name, value in manifest.changes.items()}
    rows = tuple((name, said[:_MAX_TEXT]) for name, said in notes.items())
    table = ReportTable("notes", "Release notes", ("WHAT", "SAID"), rows)
    return ReportSection("What it is", {name: said[:_MAX_TEXT] for name, said in facts.items()}, tables=_tables(table))


def _standing(report: VersionReport) -> ReportSection:
    rows = tuple(
        (each.channel, f"{each.role} {each.share}".strip(), *_change(each.record), overruled(report, each.channel))
        for each in report.standings
    )
    table = ReportTable("channels", "", ("CHANNEL", "IS", "SINCE", "GENERATION", "BY", "WHY", "OVERRULED"), rows)
    lines = () if rows else ("No channel's log names it.",)
    return ReportSection("Where it stands", lines=lines, tables=_tables(table))


def overruled(report: VersionReport, channel: str) -> str:
    """How many checks did not pass when force brought the version into a channel; empty where nothing was overruled."""
    forced = [verdict for verdict in report.verdicts if verdict.channel == channel and verdict.forced]
    return f"by force: {check_summary(forced[-1])}" if forced else ""


def _change(record: Record | None) -> tuple[str, str, str, str]:
    if record is None:
        return "", "", "", ""
    return record.when, str(record.generation), record.who, record.reason


def _changes(before: VersionDiff | None) -> ReportSection:
    if before is None:
        return ReportSection("What changed", lines=("There is no version before it to compare with.",))
    facts = {name: f"{old or '-'} -> {new or '-'}"[:_MAX_TEXT] for name, (old, new) in before.manifest.facts.items()}
    metrics = tuple(map(_difference, before.metrics))
    table = ReportTable("differences", "Metrics", ("METRIC", before.older, before.newer, "DIFFERENCE"), metrics)
    lost = sum(each.right == "older" for each in before.images)
    won = sum(each.right == "newer" for each in before.images)
    answers = (
        f"Other labels for {len(before.images)} of {counted(before.compared, 'image')}: {won} right only now, "
        f"{lost} right only before."
    )
    lines = (answers,) if before.compared else ()
    return ReportSection(f"What changed against {before.older}", facts, lines, _tables(*_parts(before.manifest), table))


def _parts(changed: ManifestChanges) -> Iterator[ReportTable]:
    rows = tuple(
        (each.name, each.change, ", ".join([*(["weights"] if each.weights else []), *each.requires]))
        for each in changed.components
    )
    yield ReportTable("components", "Components", ("COMPONENT", "IS", "DIFFERS IN"), rows)
    files = tuple((each.path, each.change, _bytes(each.before), _bytes(each.after)) for each in changed.files)
    title = f"Files ({counted(changed.unchanged_files, 'file')} unchanged)"
    yield ReportTable("files", title, ("FILE", "IS", "BYTES BEFORE", "BYTES NOW"), files)


def _bytes(size: int | None) -> str:
    return "-" if size is None else f"{size:,}"


def _difference(each: MetricDifference) -> tuple[str, str, str, str]:
    name = f"{each.metric} ({each.target})" if each.target else each.metric
    values = ["-" if value is None else number(value) for value in (each.older, each.newer)]
    if each.difference is None:
        said = each.note or "-"
    elif each.low is None or each.high is None:
        said = f"{each.difference:+.3f}"
    else:
        on = counted(each.pairs, "image")
        said = f"{each.difference:+.3f} (95% CI {each.low:+.3f} to {each.high:+.3f}, on the same {on})"
    return name, values[0], values[1], said


def _evidence(report: VersionReport) -> ReportSection:
    current = newest(report.evidence).values()
    rows = tuple(_measured(one, metric) for one in current for metric in one.metrics)
    header = ("BENCHMARK", "METRIC", "TARGET", "VALUE", "95% INTERVAL", "N", "BY", "WHEN")
    lines = (f"{counted(len(report.evidence), 'measurement')}; the newest of each benchmark, device and runtime:",)
    if not rows:
        return ReportSection("What was measured", lines=("Nothing was measured of it.",))
    table = ReportTable("metrics", "", header, rows)
    return ReportSection(
        "What was measured", lines=lines, tables=_tables(table), plots=metric_plots(report.evidence, report.verdicts)
    )


def _measured(one: Evidence, metric: Metric) -> tuple[str, ...]:
    value = "not a number" if metric.value is None else f"{number(metric.value)}{metric.shown_unit}"
    known = metric.low is not None and metric.high is not None
    interval = f"{number(metric.low or 0.0)} to {number(metric.high or 0.0)}" if known else "-"
    by = f"{one.runtime} on {one.device}"
    return one.benchmark, metric.name, metric.target or "", value, interval, f"{metric.n:,}", by, one.timestamp


def _gates(verdict: Verdict) -> ReportSection:
    lines = [
        f"{verdict.outcome}: {check_summary(verdict)}; judged {verdict.timestamp} by {verdict.who or 'nobody named'}"
    ]
    if verdict.forced:
        lines.append(f"Overruled by force: {verdict.forced}")
    table = ReportTable(
        "checks", "", ("CHECK", "VALUE", "ASKED", "STATUS", "WHY"), tuple(check_cells(verdict))
    )  # fmt: skip
    return ReportSection(f"Gates of {verdict.channel}", {"policy": verdict.policy}, tuple(lines), tables=_tables(table))


def _trial(trial: TrialReport) -> ReportSection:
    about = trial.trial
    return ReportSection(
        f"Trial in {about.channel}: {about.canary} beside {about.stable}, {trial.verdict.outcome}",
        facts_of(trial),
        (*trial.verdict.reasons, *trial.notes),
        _tables(*tables_of(trial)),
        tuple(plots(trial).values()),
    )


def _incidents(report: VersionReport) -> ReportSection:
    rows = tuple(
        (
            each.channel,
            str(each.generation),
            f"{each.action} {each.to}".strip(),
            "; ".join(each.reasons),
            each.sha256[:12],
        )
        for each in report.decisions
    )
    table = ReportTable("decisions", "Decisions", ("CHANNEL", "GENERATION", "DID", "WHY", "DECISION"), rows)
    notes = [each for each in report.decisions if each.note][-_MAX_NOTES:]
    texts = {f"Incident in {each.channel}, generation {each.generation}": each.note for each in notes}
    return ReportSection("What the guard did", tables=_tables(table), texts=texts)


def _people(report: VersionReport) -> ReportSection:
    approvals = tuple((one.channel, one.who, one.when, one.reason) for one in report.approvals)
    ticks = tuple((one.channel, one.line, one.who, one.when, one.reason) for one in report.ticks)
    lines = () if approvals else ("Nobody approved it by `ulora approve`; the history says who promoted it.",)
    return ReportSection(
        "Who approved it",
        lines=lines,
        tables=_tables(
            ReportTable("approvals", "Approvals", ("CHANNEL", "WHO", "WHEN", "WHY"), approvals),
            ReportTable("ticks", "Ticked by people", ("CHANNEL", "LINE", "WHO", "WHEN", "SAID"), ticks),
        ),
    )


def _history(records: Sequence[Record]) -> ReportTable:
    rows = tuple(
        (
            record.channel, str(record.generation), record.action, record.stable.version if record.stable else "-",
            f"{record.canary.version} {record.trial_share}" if record.canary else "-", record.who, record.when,
            record.reason,
        )
        for record in records
    )  # fmt: skip
    header = ("CHANNEL", "GENERATION", "ACTION", "STABLE", "CANARY", "WHO", "WHEN", "WHY")
    return ReportTable("history", "", header, rows)


def _tables(*found: ReportTable) -> tuple[ReportTable, ...]:
    """Those that have rows, each not too long."""
    return tuple(shortened(each, _MAX_ROWS) for each in found if each.rows)

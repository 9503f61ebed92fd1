"""The report of a trial as text."""

from __future__ import annotations

from collections.abc import Iterator

from registry.cli.output import facts, table
from registry.evidence.trial_report import TrialReport
from registry.usecases.trial_tables import facts_of, tables_of


def report_text(report: TrialReport) -> str:
    """The verdict first, then what it was made from."""
    return "\n\n".join(_parts(report))


def _parts(report: TrialReport) -> Iterator[str]:
    verdict = report.verdict
    yield "\n".join([f"verdict: {verdict.outcome}", *(f"  {reason}" for reason in verdict.reasons)])
    yield facts(facts_of(report))
    if report.notes:
        yield "\n".join(["notes:", *(f"  {note}" for note in report.notes)])
    yield from (f"{each.title}\n{table(each.header, each.rows)}" for each in tables_of(report))

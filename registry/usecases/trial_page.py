"""The report of a trial as one HTML page, with its plots inside: it needs no other file."""

from __future__ import annotations

from html import escape

from registry.evidence.trial_report import TrialReport
from registry.evidence.trial_verdict import TrialOutcome
from registry.formats.html_page import badge, bullets, fact_list, html_page, html_table
from registry.usecases.trial_plots import plots
from registry.usecases.trial_tables import facts_of, tables_of

_COLOURS: dict[TrialOutcome, str] = {
    "ship": "#1b7f3b",
    "keep": "#b00020",
    "keep running": "#4a6fa5",
    "broken": "#8a5a00",
}


def page(report: TrialReport) -> str:
    """The page."""
    outcome, trial = report.verdict.outcome, report.trial
    beside = f"{trial.canary} beside {trial.stable}"
    notes = f"<h2>Notes</h2>{bullets(report.notes)}" if report.notes else ""
    return html_page(
        f"{beside}: {outcome}",
        f"<h1>{badge(outcome, _COLOURS[outcome])} {escape(beside)}</h1>{bullets(report.verdict.reasons)}"
        f"{fact_list(facts_of(report))}{notes}{''.join(plots(report).values())}"
        f"{''.join(map(html_table, tables_of(report)))}",
    )

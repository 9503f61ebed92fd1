"""The report of a trial as one HTML page, with its plots inside: it needs no other file."""

from __future__ import annotations

from html import escape

from registry.evidence.trial_report import TrialReport
from registry.evidence.trial_verdict import TrialOutcome
from registry.usecases.trial_plots import plots
from registry.usecases.trial_tables import ReportTable, facts_of, tables_of

_COLOURS: dict[TrialOutcome, str] = {
    "ship": "#1b7f3b",
    "keep": "#b00020",
    "keep running": "#4a6fa5",
    "broken": "#8a5a00",
}
_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;padding:0 1em;max-width:64em;color:#222}"
    "h1{font-size:1.4em}h2{font-size:1.1em;margin:1.8em 0 .5em}table{border-collapse:collapse;font-size:14px}"
    "td,th{padding:.3em .9em .3em 0;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}"
    "th{font-weight:600;color:#555;font-size:13px}td{font-variant-numeric:tabular-nums}"
    ".verdict{color:#fff;border-radius:.3em;padding:.15em .6em}.scroll{overflow-x:auto}svg{max-width:100%;height:auto}"
    "dt{float:left;clear:left;width:8em;color:#555}dd{margin:0 0 .2em 8em;overflow-wrap:anywhere}"
)


def page(report: TrialReport) -> str:
    """The page."""
    outcome, trial = report.verdict.outcome, report.trial
    title = escape(f"{trial.canary} beside {trial.stable}: {outcome}")
    badge = f'<span class="verdict" style="background:{_COLOURS[outcome]}">{escape(outcome)}</span>'
    about = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(said)}</dd>" for name, said in facts_of(report).items() if said
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{badge} {escape(trial.canary)} beside {escape(trial.stable)}</h1>{_list(report.verdict.reasons)}"
        f"<dl>{about}</dl>{_notes(report)}{''.join(plots(report).values())}"
        f"{''.join(map(_table, tables_of(report)))}</html>\n"
    )


def _notes(report: TrialReport) -> str:
    return f"<h2>Notes</h2>{_list(report.notes)}" if report.notes else ""


def _list(sentences: tuple[str, ...]) -> str:
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"


def _table(found: ReportTable) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in found.header)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in found.rows)
    return f'<h2>{escape(found.title)}</h2><div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'

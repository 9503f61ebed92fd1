"""Compare ratios with those of the baseline: `python -m benchmarks.budget.check`, or `make bench-check`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from benchmarks.__main__ import report
from benchmarks.budget.baseline import BASELINE, Judged, judge_lines, read_baseline, write_baseline
from benchmarks.budget.run import BudgetOptions, BudgetRun, option_rows, run_budget
from benchmarks.comparison import INTERRUPTED
from registry.errors import UloraError

EXAMPLES = """
\b
Examples:
  python -m benchmarks.budget.check                      the rows of the quick run: minutes
  python -m benchmarks.budget.check --only rollback --only mixed
  python -m benchmarks.budget.check --update             make this run the baseline, benchmarks/baseline.json
"""


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@option_rows
@click.option("--update", is_flag=True, help="Make this run the baseline; rows that are not measured keep theirs.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(*, update: bool, as_json: bool, **how: Any) -> None:
    """Measure with tiny sizes, and fail (exit 1) if a ratio is worse than the baseline's by more than its tolerance, or
    a budget is not reported any more.
    """
    try:
        before = {} if update and not BASELINE.is_file() else read_baseline(BASELINE)
        done = run_budget(BudgetOptions(quick=True, **how))
        is_written = update and not done.was_interrupted and not done.failures
        if is_written:
            write_baseline(done.compared, done.about, BASELINE)
    except UloraError as error:
        report(error, as_json)
        raise SystemExit(error.exit_code) from error
    judged = judge_lines(done.compared, before)
    click.echo(json.dumps(_document(done, judged)) if as_json else _text(judged, done.failures, is_update=update))
    if update:
        click.echo(_written(judged, before) if is_written else f"{BASELINE} is as before", err=True)
    if done.was_interrupted:
        raise SystemExit(INTERRUPTED)
    if done.failures or (not update and any(one.is_bad for one in judged)):
        raise SystemExit(1)


def _written(judged: Sequence[Judged], before: Mapping[str, float]) -> str:
    """What an update has changed."""
    measured = {one.key for one in judged}
    kept = len([key for key in before if key not in measured])
    new = len([one for one in judged if one.outcome == "new"])
    changed = len([one for one in judged if one.outcome in ("as good", "better", "worse") and one.change])
    return f"{BASELINE}: {new} figures are new, {changed} have changed, {kept} of rows that were not run are kept"


def _document(done: BudgetRun, judged: Sequence[Judged]) -> dict[str, Any]:
    known = [{name: None if value != value else value for name, value in asdict(one).items()} for one in judged]  # noqa: PLR0124  NaN
    return {
        **done.document(),
        "compared": known,
        "failures": done.failures,
        "as_good": not done.failures and not any(one.is_bad for one in judged),
    }


def _text(judged: Sequence[Judged], failures: Sequence[str], *, is_update: bool) -> str:
    bad = [] if is_update else [one for one in judged if one.is_bad]
    lines = [f"{'FAILED' if one in bad else one.outcome:<8} {one.sentence()}" for one in judged]
    lines += [f"FAILED   {failure}" for failure in failures]
    return "\n".join([*lines, "", f"{len(bad) + len(failures)} of {len(lines)} are worse than allowed"])


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.budget.check")

"""Compare ratios with those of the baseline: `python -m benchmarks.budget.check`, or `make bench-check`."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
    """Measure with tiny sizes, and fail (exit 1) if a ratio is worse than the baseline's by more than its tolerance."""
    try:
        before = {} if update else read_baseline()
        done = run_budget(BudgetOptions(quick=True, **how))
        if update and not done.was_interrupted:
            write_baseline(done.compared, done.about)
            click.echo(f"{BASELINE} is of this run now", err=True)
    except UloraError as error:
        report(error, as_json)
        raise SystemExit(error.exit_code) from error
    judged = judge_lines(done.compared, before)
    failed = [one.name for one in done.measured if one.state == "failed"]
    click.echo(json.dumps(_document(done, judged)) if as_json else _text(judged, failed))
    if done.was_interrupted:
        raise SystemExit(INTERRUPTED)
    if failed or (not update and any(one.is_bad for one in judged)):
        raise SystemExit(1)


def _document(done: BudgetRun, judged: Sequence[Judged]) -> dict[str, Any]:
    known = [{name: None if value != value else value for name, value in asdict(one).items()} for one in judged]  # noqa: PLR0124  NaN
    return {**done.document(), "compared": known, "as_good": not any(one.is_bad for one in judged)}


def _text(judged: Sequence[Judged], failed: Sequence[str]) -> str:
    bad = [one for one in judged if one.is_bad]
    lines = [f"{'FAILED' if one.is_bad else one.outcome:<8} {one.sentence()}" for one in judged]
    lines += [f"FAILED   {name}: its command failed" for name in failed]
    return "\n".join([*lines, "", f"{len(bad) + len(failed)} of {len(judged) + len(failed)} are worse than allowed"])


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.budget.check")

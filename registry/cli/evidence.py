"""`ulora measure`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.options import device_option, folder, offline_option, registry_options
from registry.cli.output import Output
from registry.cli.serving import runtime_option

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.evidence.results import Evidence


@click.command("measure", short_help="Run benchmarks on a version and keep the evidence.")
@click.argument("version")
@click.option("--only", metavar="NAME,…", default="", help="accuracy, routing, ood, latency, memory; all by default.")
@click.option(
    "--data",
    type=folder,
    metavar="DIR",
    help="Images as crop/disease/*.jpg, or crop/{train,val,test}/disease. [ULORA_DATA]",
)
@device_option
@runtime_option
@offline_option
@registry_options
def measure_command(
    registry: Registry,
    out: Output,
    *,
    version: str,
    only: str,
    data: Path | None,
    device: str,
    runtime: str | None,
    offline: bool,
) -> None:
    """Measure a version on held-out images. The evidence goes to the store first, then to MLflow as a run with a plot.

    `mlflow run . -e ood -P version=…` does the same for one benchmark.

    \b
    Examples:
      ulora measure v5.5.4-dinov3 --data images/
      ulora measure v5.5.4-dinov3 --only ood,latency --device cuda
    """
    from registry.cli.versions import metrics_table

    def tell(evidence: Evidence) -> None:
        out.say(f"{evidence.benchmark}: {evidence.data.n} images of {evidence.data.name}, {evidence.seconds:.1f} s")

    names = [name.strip() for name in only.split(",") if name.strip()]
    evidence = registry.measure(
        version, only=names, data=data, device=device, runtime=runtime, offline=offline, on_done=tell
    )
    out.answer(evidence, metrics_table(evidence))

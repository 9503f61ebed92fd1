"""`python -m benchmarks NAME --version V`: measure one version with one benchmark; the entry points of MLproject run
this.

MLflow hardly checks parameters and passes unknown ones on, so they are checked here. An empty value means the default.
The exit codes are those of `ulora`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.errors import BadInput, UloraError
from registry.names import VersionName, check_model
from registry.usecases.options import MeasureOptions

if TYPE_CHECKING:
    from registry.evidence.results import Evidence, Metric

_DEVICE = re.compile(r"[a-z]+(:\d{1,3})?")
_RUNTIME = re.compile(r"[a-z][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class Parameters:
    """The parameters of an entry point, as MLflow hands them on; an empty value means the default.

    Attributes:
        name: of the benchmark.
        data: the folder of images.
        rename: a file that says what the folders of images show.
        against: another version, which times are measured in turns with.
    """

    name: str
    version: str
    model: str = ""
    data: str = ""
    rename: str = ""
    device: str = ""
    runtime: str = ""
    against: str = ""

    def options(self) -> MeasureOptions:
        """What is measured, and on what.

        Raises:
            BadInput: a parameter is invalid.
        """
        if self.device and not _DEVICE.fullmatch(self.device):
            raise BadInput(f"{self.device[:40]!r} is not a device", hint="for example cpu or cuda:0")
        if self.runtime and not _RUNTIME.fullmatch(self.runtime):
            raise BadInput(f"{self.runtime[:40]!r} is not a runtime", hint="for example torch-fp32")
        return MeasureOptions(
            only=(self.name,),
            data=Path(self.data) if self.data else None,
            device=self.device or "cpu",
            runtime=self.runtime or None,
            rename=Path(self.rename) if self.rename else None,
            against=str(VersionName.parse(self.against)) if self.against else None,
        )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", metavar="NAME")
@click.option("--version", required=True, help="The version to measure, e.g. v5.5.4-dinov3.")
@click.option("--model", default="", help="The registered model; the setting `model` by default.")
@click.option("--data", default="", help="Folder of images, DIR/crop/disease/*; the setting `data` by default.")
@click.option("--rename", default="", help="File that says what the folders show; see `ulora data check --rename`.")
@click.option("--device", default="cpu", show_default=True, help="Where to run it, e.g. cuda:0.")
@click.option("--runtime", default="", help="What computes it, e.g. torch-fp32; the version's default by default.")
@click.option("--against", default="", help="Of latency: another version, measured in turns with it.")
@click.option("--json", "as_json", is_flag=True, help="Print the evidence as JSON.")
def main(*, as_json: bool, **given: str) -> None:
    """Run the benchmark NAME (accuracy, routing, ood, latency, memory) on a version and keep the evidence."""
    try:
        found = measure(Parameters(**given))
    except UloraError as error:
        report(error, as_json)
        raise SystemExit(error.exit_code) from error
    for evidence in found:
        click.echo(evidence.to_bytes().decode() if as_json else "\n".join(map(line, evidence.metrics)))


def measure(parameters: Parameters) -> list[Evidence]:
    """Measure a version with one benchmark.

    Raises:
        UloraError: when a parameter is invalid, or the measurement fails.
    """
    from registry.api import Registry

    VersionName.parse(parameters.version)
    options = parameters.options()
    registry = Registry(check_model(parameters.model) if parameters.model else None)
    return registry.measure(parameters.version, options, say=lambda sentence: click.echo(f"note: {sentence}", err=True))


def line(metric: Metric) -> str:
    """A metric on one line: name, target, value, interval, samples."""
    from registry.evidence.check_lines import metric_text, named

    return f"{named(metric.name, metric.target)}: {metric_text(metric)}"


def report(error: UloraError, as_json: bool) -> None:
    """Print an error and its hint to standard error."""
    document = {"error": type(error).__name__, "message": str(error), "hint": error.hint}
    text = f"Error: {error}" + (f"\nHint: {error.hint}" if error.hint else "")
    click.echo(json.dumps(document) if as_json else text, err=True)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")

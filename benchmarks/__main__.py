"""`python -m benchmarks NAME …`: a measurement by its name; the entry points of MLproject run this.

MLflow hardly checks parameters and passes unknown ones on, so they are checked here: what is wrong is said on one line,
with the hint on a second one. An empty value means the default. The exit codes are those of `ulora`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import click

from benchmarks.parameters import (
    OF_A_VERSION,
    CompareParameters,
    MeasuringParameters,
    VersionParameters,
)
from benchmarks.software import SIZES, SOFTWARE, SoftwareParameters
from registry.cli.signals import interrupted_once
from registry.errors import BadInput, NotInMlflow, UloraError

if TYPE_CHECKING:
    from registry.evidence.results import Evidence, Metric

INTERRUPTED = 130
_HELP = {"help_option_names": ["-h", "--help"]}
_WHAT = {
    "accuracy": "Accuracy, balanced accuracy and macro-F1 of each target.",
    "routing": "How often the router finds the right target.",
    "ood": "AUROC and FPR at 95% TPR of each target's OOD detector.",
    "latency": "Milliseconds per request, percentiles, and throughput.",
    "memory": "Megabytes that each adapter adds.",
    "depth": "Accuracy against the number of the backbone's blocks that are computed.",
    "all": f"{', '.join(OF_A_VERSION)}, one run each.",
}

EXAMPLES = """
\b
Examples:
  python -m benchmarks all --version v5.5.4-dinov3 --data images/
  python -m benchmarks compare --older v5.5.3-performance --newer v5.5.4-dinov3
  python -m benchmarks scale --size tiny
"""


class EntryPoints(click.Group):
    """Says every error on one line, also those of click, and exits with the codes of `ulora`."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and exit."""
        words = [str(word) for word in (sys.argv[1:] if args is None else args)]
        as_json = "--json" in words
        try:
            _check_help(words)
            with interrupted_once():
                super().main(words, prog_name, complete_var, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(BadInput.exit_code)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "python -m benchmarks"
            report(BadInput(error.format_message(), hint=f"`{path} --help` shows how"), as_json)
            sys.exit(BadInput.exit_code)
        except UloraError as error:
            report(error, as_json)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)
        sys.exit(0)


@click.group(cls=EntryPoints, epilog=EXAMPLES, context_settings=_HELP)
def main() -> None:
    """Measure a version (accuracy, routing, ood, latency, memory, depth, all), compare two, or measure this software
    (rollback, scale, transfer, serving).
    """


def _on_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of all that measures versions."""
    options = (
        click.option("--model", default="", help="The registered model; the setting `model` by default."),
        click.option("--data", default="", help="Folder of images, DIR/crop/disease/*; the setting `data` by default."),
        click.option("--rename", default="", help="File that says what the folders show; see `ulora data check`."),
        click.option("--device", default="cpu", show_default=True, help="Where to run it, e.g. cuda:0."),
        click.option("--runtime", default="", help="What computes it, e.g. torch-fp32; the version's own by default."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _add_version_command(name: str, about: str) -> None:
    @main.command(name, help=about, short_help=about, context_settings=_HELP)
    @click.option("--version", required=True, help="The version to measure, e.g. v5.5.4-dinov3.")
    @_on_options
    @click.option("--against", default="", hidden=name != "latency", help="Another version, measured in turns with it.")
    def command(*, version: str, against: str, as_json: bool, **on: str) -> None:
        for evidence in measure(VersionParameters(name, version, MeasuringParameters(**on), against)):
            click.echo(evidence.to_bytes().decode() if as_json else "\n".join(map(line, evidence.metrics)))


def _add_software_command(name: str, about: str) -> None:
    @main.command(name, help=about, short_help=about, context_settings=_HELP)
    @click.option("--size", type=click.Choice(["", *SIZES]), default="full", help="tiny shows whether it runs.")
    @click.option("--parts", default="", hidden=name != "serving", help="Parts of it, by commas; all by default.")
    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    def command(*, size: str, parts: str, as_json: bool) -> None:
        from benchmarks.software_run import run_software

        parameters = SoftwareParameters(name, size or "full", parts)
        _answer(lambda: run_software(parameters, say=_note), as_json)


for _name, _about in _WHAT.items():
    _add_version_command(_name, _about)
for _name, _software in SOFTWARE.items():
    _add_software_command(_name, _software.about)


@main.command("compare", context_settings=_HELP)
@click.option("--older", required=True, help="The version to compare with, e.g. v5.5.3-performance.")
@click.option("--newer", required=True, help="The version to compare, e.g. v5.5.4-dinov3.")
@_on_options
def compare_command(*, older: str, newer: str, as_json: bool, **on: str) -> None:
    """Two versions on the images that both answered: intervals of differences, and images that only one got right.

    With --data, what is missing for that is measured first.
    """
    from benchmarks.compare import compare_versions

    parameters = CompareParameters(older, newer, MeasuringParameters(**on))
    _answer(lambda: compare_versions(parameters, say=_note, on_done=_done), as_json)


def measure(parameters: VersionParameters) -> list[Evidence]:
    """Measure a version.

    Raises:
        UloraError: when a parameter is invalid, or the measurement fails.
    """
    options = parameters.options()
    from registry.api import Registry

    registry = Registry(parameters.on.checked_model())
    return registry.measure(parameters.version, options, on_done=_done, say=_note)


class Answered(Protocol):
    """What can be printed for people and for programs."""

    def text(self) -> str: ...
    def as_json(self) -> dict[str, Any]: ...


def _answer(find: Callable[[], Answered], as_json: bool) -> None:
    """Print what is found, also if only MLflow did not take it."""
    lacking: NotInMlflow | None = None
    try:
        found = find()
    except NotInMlflow as error:
        if error.answer is None:
            raise
        found, lacking = cast("Answered", error.answer), error
    click.echo(json.dumps(found.as_json()) if as_json else found.text())
    if lacking:
        raise lacking


def line(metric: Metric) -> str:
    """A metric on one line: name, target, value, interval, samples."""
    from registry.evidence.check_lines import metric_text, named

    return f"{named(metric.name, metric.target)}: {metric_text(metric)}"


def report(error: UloraError, as_json: bool) -> None:
    """Print an error on one line, and its hint on a second one, to standard error."""
    document = {"error": type(error).__name__, "message": str(error), "hint": error.hint}
    text = f"Error: {_one_line(str(error))}" + (f"\nHint: {_one_line(error.hint)}" if error.hint else "")
    click.echo(json.dumps(document) if as_json else text, err=True)


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))


def _check_help(words: list[str]) -> None:
    """MLflow passes a parameter `help` on as `--help`: that is a mistake, and not a reason to end with 0.

    Raises:
        UsageError: it is one word of several.
    """
    if {"-h", "--help"} & set(words) and len(words) > 2:
        raise click.UsageError("--help goes with no other option")


def _note(sentence: str) -> None:
    click.echo(f"note: {sentence}", err=True)


def _done(evidence: Evidence) -> None:
    click.echo(f"{evidence.version} {evidence.benchmark}: measured in {evidence.seconds:.1f} s", err=True)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")

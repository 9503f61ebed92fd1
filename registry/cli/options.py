"""Options that commands share, and how a command's options become one object."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from registry.cli.completers import complete_channels, complete_versions
from registry.cli.operations import run_and_note
from registry.cli.output import Output
from registry.names import check_channel

if TYPE_CHECKING:
    from registry.api import Registry

Command = TypeVar("Command", bound=Callable[..., None])
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_MAX_DAYS = 36_500


@dataclass(frozen=True)
class ChangeOptions:
    """What all commands that change a channel have in common."""

    channel: str
    reason: str
    dry_run: bool


@dataclass(frozen=True)
class ImageOptions:
    """A folder of images, and the file that says what its folders show."""

    data: Path
    rename: Path | None


class _Age(click.ParamType[timedelta]):
    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        match = re.fullmatch(r"(\d{1,9})([smhdw])", str(value))
        age = int(match[1]) * _UNITS[match[2]] if match else -1
        if not 0 <= age <= _MAX_DAYS * _UNITS["d"]:
            self.fail(f"{value!r} is not an age: for example 30d, 24h or 90m", param, ctx)
        return timedelta(seconds=age)


AGE = _Age()
"""The type of an option such as `30d`."""


def options_as(kind: type[Any] | str, name: str = "options") -> Callable[[Command], Command]:
    """Collect the options that are fields of a dataclass: the command gets one object, as its parameter `name`.

    Args:
        kind: the dataclass, or `module:Class` for one whose module is imported only when the command runs.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            found = _imported(kind) if isinstance(kind, str) else kind
            fields = [field.name for field in dataclasses.fields(found) if field.name in arguments]
            options = found(**{field: arguments.pop(field) for field in fields})
            command(**arguments, **{name: options})

        return run  # type: ignore[return-value]

    return decorate


def _imported(path: str) -> type[Any]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def json_option(command: Command) -> Command:
    """`--json`: the command gets an `out: Output`."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
    @functools.wraps(command)
    def run(*, as_json: bool, **arguments: Any) -> None:
        command(out=Output(as_json), **arguments)

    return run  # type: ignore[return-value]


def registry_options(command: Command) -> Command:
    """`--model`, `--store`, `--tracking-uri`, `--json`: the command gets `registry: Registry` and `out: Output`."""

    @lazy_registry_options
    @functools.wraps(command)
    def run(*, open_registry: Callable[[], Registry], **arguments: Any) -> None:
        command(registry=open_registry(), **arguments)

    return run  # type: ignore[return-value]


def lazy_registry_options(command: Command) -> Command:
    """The same for a command that does not always need a store: it gets `open_registry`, which returns the registry."""

    @click.option("--model", metavar="NAME", help="The registered model. [ULORA_MODEL; default aads-ulora]")
    @click.option("--store", metavar="URL", help="The store, s3://BUCKET/PREFIX. [ULORA_STORE]")
    @click.option("--tracking-uri", metavar="URL", help="The MLflow server. [MLFLOW_TRACKING_URI]")
    @json_option
    @functools.wraps(command)
    def run(*, model: str | None, store: str | None, tracking_uri: str | None, **arguments: Any) -> None:
        def open_registry() -> Registry:
            from registry.api import Registry

            opened.append(Registry(model, store=store, tracking_uri=tracking_uri))
            return opened[-1]

        opened: list[Registry] = []
        run_and_note(lambda: command(open_registry=open_registry, **arguments), opened)

    return run  # type: ignore[return-value]


def channel_option(default: str) -> Callable[[Command], Command]:
    """`--channel`."""
    return click.option(
        "-c", "--channel", default=default, show_default=True, metavar="NAME", help="staging or production.",
        shell_complete=complete_channels, callback=_check_channel,
    )  # fmt: skip


def version_or_channel(version_help: str) -> Callable[[Command], Command]:
    """`--version` and `--channel`, which exclude each other: the command gets `version`, None where it is left out, and
    `channel`."""

    def decorate(command: Command) -> Command:
        @channel_option("production")
        @click.option("--version", metavar="V", help=version_help, shell_complete=complete_versions)
        @functools.wraps(command)
        def run(*, channel: str, version: str | None, **arguments: Any) -> None:
            given = click.get_current_context().get_parameter_source("channel")
            if version is not None and given is not click.core.ParameterSource.DEFAULT:
                raise click.UsageError("--version and --channel exclude each other")
            command(channel=channel, version=version, **arguments)

        return run  # type: ignore[return-value]

    return decorate


def _check_channel(context: click.Context, parameter: click.Parameter, name: str) -> str:
    # Before anything is imported or asked for it.
    return check_channel(name)


reason_option = click.option("--reason", default="", metavar="TEXT", help="Why; it stays on the record.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would happen.")
offline_option = click.option(
    "--offline", is_flag=True, help="Leave MLflow out; `ulora reconcile` logs it there later."
)
device_option = click.option("--device", default="cpu", show_default=True, metavar="NAME", help="cpu, cuda, cuda:1 …")
runtime_option = click.option(
    "--runtime", metavar="NAME", help="What computes it, e.g. torch-fp32; the version's default when left out."
)
folder = click.Path(path_type=Path)
rename_option = click.option(
    "--rename", type=folder, metavar="FILE", help="What the folders show, as `ulora data check --rename` wrote it."
)

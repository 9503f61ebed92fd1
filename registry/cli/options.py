"""Options that commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from registry.cli.output import Output

if TYPE_CHECKING:
    from registry.api import Registry

Command = TypeVar("Command", bound=Callable[..., None])


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
    """The same for a command that does not always need a store: it gets `open_registry`, which gives the registry."""

    @click.option("--model", metavar="NAME", help="The registered model. [ULORA_MODEL; default aads-ulora]")
    @click.option("--store", metavar="URL", help="The store, s3://BUCKET/PREFIX. [ULORA_STORE]")
    @click.option("--tracking-uri", metavar="URL", help="The MLflow server. [MLFLOW_TRACKING_URI]")
    @json_option
    @functools.wraps(command)
    def run(*, model: str | None, store: str | None, tracking_uri: str | None, **arguments: Any) -> None:
        def open_registry() -> Registry:
            from registry.api import Registry

            return Registry(model, store=store, tracking_uri=tracking_uri)

        command(open_registry=open_registry, **arguments)

    return run  # type: ignore[return-value]


def channel_option(default: str) -> Callable[[Command], Command]:
    """`--channel`."""
    return click.option(
        "-c", "--channel", default=default, show_default=True, metavar="NAME", help="staging or production."
    )


reason_option = click.option("--reason", default="", metavar="TEXT", help="Why; it stays on the record.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would happen.")
offline_option = click.option("--offline", is_flag=True, help="Leave MLflow out; `ulora reconcile` catches up later.")
device_option = click.option("--device", default="cpu", show_default=True, metavar="NAME", help="cpu, cuda, cuda:1 …")
folder = click.Path(path_type=Path)

"""`ulora config`."""

from __future__ import annotations

from pathlib import Path

import click

from registry.cli.options import folder, json_option
from registry.cli.output import Output, table


@click.group("config", short_help="The settings in force, and where each comes from.")
def config_command() -> None:
    """The settings: from options, then environment variables, then ulora.toml. docs/settings.md explains each."""


@config_command.command("show", short_help="Every setting, its value, and where that comes from.")
@click.option("--model", metavar="NAME", help="As for the other commands.")
@click.option("--store", metavar="URL", help="As for the other commands.")
@click.option("--tracking-uri", metavar="URL", help="As for the other commands.")
@click.option("--data", type=folder, metavar="DIR", help="As for `ulora measure`.")
@json_option
def show_command(
    out: Output, *, model: str | None, store: str | None, tracking_uri: str | None, data: Path | None
) -> None:
    """Show every setting with its value and where that comes from. No server is asked; passwords and keys are hidden.

    \b
    Example:
      ulora config show
    """
    from registry.usecases.config import show

    found = show({"model": model, "store": store, "tracking_uri": tracking_uri, "data": data})
    rows = [(each.name, each.source, each.value) for each in found]
    out.answer(found, table(("SETTING", "FROM", "VALUE"), rows))

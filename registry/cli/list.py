"""`ulora list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.options import registry_options
from registry.cli.output import Output, table

if TYPE_CHECKING:
    from registry.answers import Listed
    from registry.api import Registry


@click.command("list", short_help="The versions of the model.")
@registry_options
def list_command(registry: Registry, out: Output) -> None:
    """List the versions in the order of their names: what they are, where they are live, what was measured.

    \b
    Example:
      ulora list --json | jq -r '.[].version'
    """
    versions = registry.versions()
    header = ("VERSION", "DESCRIPTION", "FILES", "MB", "CHANNEL", "MLFLOW", "EVIDENCE")
    rows = [_row(found) for found in versions]
    out.answer(versions, table(header, rows) if rows else f"{registry.model} has no versions yet")


def _row(found: Listed) -> tuple[object, ...]:
    """A line of the table; the channels also say where a version was withdrawn, and whether it was forgotten."""
    withdrawn = [f"withdrawn from {name}" for name in found.withdrawn_from]
    states = [*found.channels, *withdrawn, *(["forgotten"] if found.forgotten else [])]
    return (
        found.version, found.description, found.files, f"{found.size / 1e6:.2f}", ", ".join(states) or "-",
        found.catalog_number, found.evidence,
    )  # fmt: skip

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
@click.option("--mlflow", "with_mlflow", is_flag=True, help="Their numbers in MLflow, too; that takes some seconds.")
@registry_options
def list_command(registry: Registry, out: Output, *, with_mlflow: bool) -> None:
    """List the versions in the order of their names: what they are, where they are live, what was measured.

    \b
    Examples:
      ulora list --mlflow
      ulora list --json | jq -r '.[].version'
    """
    versions = registry.versions(mlflow=with_mlflow, say=out.note)
    header = ("VERSION", "DESCRIPTION", "FILES", "MB", "CHANNEL", *(["MLFLOW"] if with_mlflow else []), "EVIDENCE")
    rows = [_row(found, with_mlflow) for found in versions]
    out.answer(versions, table(header, rows) if rows else f"{registry.model} has no versions yet")


def _row(found: Listed, with_mlflow: bool) -> tuple[object, ...]:
    """A line of the table; the channels also say where a version was withdrawn, and whether it was forgotten."""
    withdrawn = [f"withdrawn from {name}" for name in found.withdrawn_from]
    states = [*found.channels, *withdrawn, *(["forgotten"] if found.forgotten else [])]
    return (
        found.version, found.description, found.files, f"{found.size / 1e6:.2f}", ", ".join(states) or "-",
        *([found.catalog_number] if with_mlflow else []), found.evidence,
    )  # fmt: skip

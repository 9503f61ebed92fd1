"""`ulora history`."""

from __future__ import annotations

from textwrap import shorten
from typing import TYPE_CHECKING

import click

from registry.cli.options import channel_option, registry_options
from registry.cli.output import Output, author, table
from registry.parallel import time_limit

if TYPE_CHECKING:
    from registry.api import Registry

_WIDTH = 120
"""Characters of a reason."""
_SECONDS = 120.0
"""After which it is given up, whatever the store does; a long history takes a while."""


@click.command("history", short_help="Every change of a channel: who, when, why.")
@channel_option("production")
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="Only the newest N.")
@registry_options
def history_command(registry: Registry, out: Output, *, channel: str, limit: int | None) -> None:
    """Show the records of a channel, newest first; forced promotions with the rules that they overruled.

    Without --limit the whole chain is verified (exit 6 if broken).

    \b
    Example:
      ulora history --channel production -n 10
    """
    with time_limit(_SECONDS):
        records = registry.history(channel, limit)
        forced = registry.forced(records)
    rows = [
        (
            record.generation,
            f"{record.action} (forced)" if record.generation in forced else record.action,
            record.stable.version if record.stable else None,
            record.canary.version if record.canary else None,
            author(record.who, record.who_verified),
            record.when,
            _why(record.reason, forced.get(record.generation, "")),
        )
        for record in records
    ]
    header = ("GENERATION", "ACTION", "STABLE", "CANARY", "WHO", "WHEN", "REASON")
    document = [
        {
            **record.model_dump(mode="json"),
            "forced": record.generation in forced,
            "overruled": forced.get(record.generation, ""),
        }
        for record in records
    ]
    out.answer(document, table(header, rows) if rows else f"{channel} has no history yet")


def _why(reason: str, overruled: str) -> str:
    """The reason of a change, and the rules that it overruled, in one line that is not too long; `--json` has all."""
    return shorten("; overruled: ".join(filter(None, (reason, overruled))), _WIDTH, placeholder=" …") or "-"

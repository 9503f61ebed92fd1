"""`ulora history`."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import click

from registry.channels.readable_log import RefusedRecord
from registry.channels.record import Record
from registry.cli.options import channel_option, registry_options
from registry.cli.output import Output, author, table
from registry.errors import StoreDenied
from registry.parallel import time_limit
from registry.store.refusals import MAY_NOT

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.channels.record import Record

_WIDTH = 120
"""Characters of a reason."""
_SHOWN = 5
_HINT = "was it written under a key of its writer's own? Ask them, or read as somebody who may"
_SECONDS = 120.0
"""After which it is given up, whatever the store does; a long history takes a while."""


@click.command("history", short_help="Every change of a channel: who, when, why.")
@channel_option("production")
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="Only the newest N.")
@registry_options
def history_command(registry: Registry, out: Output, *, channel: str, limit: int | None) -> None:
    """Show the records of a channel, newest first; forced promotions with the rules that they overruled, trials with
    their share of the traffic, and what the guard did with the digest of its decision.

    Without --limit the whole chain is verified (exit 6 if broken). A record that may not be read, e.g. under its
    writer's own key, has a line, and the chain can't be checked over it (exit 7, after the others are shown).

    \b
    Example:
      ulora history --channel production -n 10
    """
    from registry.usecases.pages import forced
    from registry.usecases.status import readable_history

    unread: dict[int, str] = {}
    with time_limit(_SECONDS):
        log = readable_history(registry.wiring, channel, limit)
        by_force = forced(registry.wiring, log.records, unread)
    verdicts = [f"generation {generation}: {why}" for generation, why in unread.items()]
    told = [_Told(entry, by_force.get(entry.generation), unread.get(entry.generation, "")) for entry in log.entries]
    rows = [each.row() for each in told]
    header = ("GENERATION", "ACTION", "STABLE", "CANARY", "WHO", "WHEN", "REASON")
    shown = f"{table(header, rows)}\n{channel} of {registry.model}" if rows else f"{channel} has no history yet"
    out.answer([each.document() for each in told], shown)
    _fail_if_refused(log.refused, verdicts)


@dataclass(frozen=True)
class _Told:
    """An entry of the log; the rules that it overruled, None if it was not forced; why its verdict may not be read."""

    entry: Record | RefusedRecord
    overruled: str | None
    unread: str

    def row(self) -> tuple[object, ...]:
        """Its line of the table."""
        entry = self.entry
        if not isinstance(entry, Record):
            return entry.generation, MAY_NOT, None, None, None, None, _line(entry.why)
        return (
            entry.generation,
            f"{entry.action} (forced)" if self.overruled is not None else entry.action,
            entry.stable.version if entry.stable else None,
            f"{entry.canary.version} {entry.trial_share}" if entry.canary else None,
            author(entry.who, entry.who_verified),
            entry.when,
            _line(*self._reasons(entry)),
        )

    def _reasons(self, record: Record) -> tuple[str, ...]:
        """Why it was made: what its author said, the decision that made it, the rules that it overruled."""
        return (
            record.reason,
            f"decision {record.decision[:12]}" if record.decision else "",
            self.unread,
            f"overruled: {self.overruled}" if self.overruled else "",
        )

    def document(self) -> dict[str, Any]:
        """It for programs. Of a record that may not be read only `channel`, `generation` and `unread` are known."""
        entry = self.entry
        if not isinstance(entry, Record):
            return {"channel": entry.channel, "generation": entry.generation, "unread": str(entry)}
        return {
            **entry.model_dump(mode="json"),
            "trial_share": entry.trial_share,
            "forced": self.overruled is not None,
            "overruled": self.overruled or "",
            "unread": self.unread,
        }


def _fail_if_refused(records: list[RefusedRecord], verdicts: list[str]) -> None:
    if records:
        number = ", ".join(str(each.generation) for each in records[:_SHOWN]) + " …" * (len(records) > _SHOWN)
        raise StoreDenied(
            f"{len(records)} of the records {MAY_NOT} (generation {number}), and the chain can't be checked over them: "
            f"{records[0].why}",
            hint=_HINT,
        )
    if verdicts:
        raise StoreDenied(f"whether a change was forced is not known of {len(verdicts)}: {verdicts[0]}", hint=_HINT)


def _line(*parts: str) -> str:
    """Texts as one that is not too long; `--json` has all."""
    return shorten("; ".join(filter(None, parts)), _WIDTH, placeholder=" …") or "-"

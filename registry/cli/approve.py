"""`ulora approve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_versions
from registry.cli.options import (
    ChangeOptions,
    channel_option,
    dry_run_option,
    options_as,
    reason_option,
    registry_options,
)
from registry.cli.output import Output, place

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.usecases.approve import Approved


@click.command("approve", short_help="Say yes to a version, where the policy asks several people.")
@click.argument("version", shell_complete=complete_versions)
@channel_option("production")
@reason_option
@dry_run_option
@registry_options
@options_as(ChangeOptions, "change")
def approve_command(registry: Registry, out: Output, *, version: str, change: ChangeOptions) -> None:
    """Approve VERSION for a channel. A policy with `approvals: N` asks N different people on top of its rules.

    An approval is for the version's present content, and is kept for ever. Each person counts once: who has approved it
    already is refused (exit 4). Who somebody is, is what promotions record too: ULORA_WHO, else the identity of the
    credentials.

    \b
    Examples:
      ulora approve v5.5.4-dinov3 --reason "looked at the confusion matrix"
      ulora approve v5.5.4-dinov3 --channel staging --dry-run
    """
    out.say(place(registry))
    done = registry.approve(version, change.channel, reason=change.reason, dry_run=change.dry_run)
    out.answer(done, _sentence(done, change.dry_run))


def _sentence(done: Approved, dry_run: bool) -> str:
    said = f"{done.version} {'would be' if dry_run else 'is'} approved for {done.channel} by {', '.join(done.who)}"
    if not done.needed:
        return f"{said}; the policy asks for nobody's approval there"
    return f"{said}: {len(done.who)} of {done.needed} that the policy asks for"

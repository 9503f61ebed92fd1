"""`ulora promote`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.changes import answer, judged
from registry.cli.completers import complete_versions
from registry.cli.followers import wait_option
from registry.cli.options import (
    ChangeOptions,
    channel_option,
    dry_run_option,
    options_as,
    reason_option,
    registry_options,
)
from registry.cli.output import Output, place
from registry.cli.signals import sigterm_interrupts

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.channels.channel import PromoteOptions


@click.command("promote", short_help="Make a version stable in a channel, if the gates pass.")
@click.argument("version", shell_complete=complete_versions)
@channel_option("staging")
@click.option("--force", is_flag=True, help="Overrule the gates. Needs --reason.")
@click.option("--expected", type=click.IntRange(min=0), metavar="N", help="The generation you saw; refuse if it moved.")
@wait_option(0.0)
@reason_option
@dry_run_option
@registry_options
@options_as("registry.channels.channel:PromoteOptions")
@options_as(ChangeOptions, "change")
def promote_command(
    registry: Registry, out: Output, *, version: str, options: PromoteOptions, change: ChangeOptions, wait: float
) -> None:
    """Make VERSION what a channel serves, if its files are in the store and recorded evidence meets the policy's rules.

    A refusal names the rules (exit 3) and is kept. If somebody else moved the channel first nothing changes (exit 4).
    So is a log whose newest record does not continue the one before (exit 6), unless forced.
    The record is read back: where the store has stopped honouring conditional writes, the exit status is 6.
    `ulora rollback --channel …` undoes it.

    With --wait it then waits for the replicas, and compares the digests of the weights in their memory with the
    version's manifest. Replicas that are late are named; if one has other weights, the exit status is 6 as well.

    \b
    Examples:
      ulora promote v5.5.4-dinov3
      ulora promote v5.5.4-dinov3 --channel production --dry-run
      ulora promote v5.5.4-dinov3 --channel production --wait 120
      ulora promote v5.5.3-hotfix --channel production --force --reason "incident 42"
    """
    with sigterm_interrupts():
        out.say(place(registry))
        done = judged(
            out,
            lambda: registry.promote(version, change.channel, options, reason=change.reason, dry_run=change.dry_run),
        )
        answer(registry, out, done, dry_run=change.dry_run, wait=wait)

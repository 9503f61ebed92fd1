"""`ulora rollback`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_versions
from registry.cli.followers import check_proofs, wait_for_followers, wait_option
from registry.cli.options import (
    ChangeOptions,
    channel_option,
    dry_run_option,
    options_as,
    reason_option,
    registry_options,
)
from registry.cli.output import Output, change_sentence, place
from registry.cli.signals import sigterm_interrupts
from registry.parallel import time_limit

if TYPE_CHECKING:
    from registry.answers import Change
    from registry.api import Registry
    from registry.channels.channel import RollbackOptions

_SECONDS = 30.0
"""After which a rollback is given up, whatever the store does: of these, a write that was sent has 15."""


@dataclass(frozen=True)
class _Afterwards:
    """What the command does once the channel has moved."""

    wait: float
    no_mirror: bool


@click.command("rollback", short_help="Go back to the version before. Needs S3 only.")
@channel_option("production")
@click.option(
    "--from", "leave", metavar="VERSION", shell_complete=complete_versions,
    help="The version to leave; exit 0 if it is not served any more.",
)  # fmt: skip
@click.option(
    "--to", metavar="VERSION", shell_complete=complete_versions,
    help="The version to go to, one on the stack; those above it are withdrawn.",
)  # fmt: skip
@click.option("--only", multiple=True, metavar="COMPONENT", help="Only this part, e.g. adapters/tomato; repeatable.")
@click.option("--expected", type=click.IntRange(min=1), metavar="N", help="The generation you saw.")
@click.option("--again", is_flag=True, help="Go back one more, within a minute of another rollback.")
@click.option("--stable", "leave_stable", is_flag=True, help="With a canary running, leave stable too.")
@wait_option(10.0)
@click.option("--no-mirror", is_flag=True, help="Do not update MLflow afterwards.")
@reason_option
@dry_run_option
@registry_options
@options_as("registry.channels.channel:RollbackOptions")
@options_as(ChangeOptions, "change")
@options_as(_Afterwards, "afterwards")
def rollback_command(
    registry: Registry, out: Output, *, options: RollbackOptions, only: tuple[str, ...], change: ChangeOptions,
    afterwards: _Afterwards,
) -> None:  # fmt: skip
    """Make the channel serve the version before, by one conditional write to S3. MLflow may be down.

    The version left is withdrawn: only a forced promotion brings it back. Two people who roll back at the same time
    go back one step, not two.

    Then it waits for the replicas, and compares the digests of the weights in their memory with the version's manifest.
    Replicas that are late are named. If one has other weights than that, the exit status is 6; the channel has moved.

    With --only the live version goes on, with these components of the version before (or of the one that --to names).
    That is a version of its own; nothing is uploaded for it. Components made for another backbone or preprocessing are
    refused.

    A log that is broken below the new record is said (`broken_chain` with --json), and stops no rollback.

    \b
    Examples:
      ulora rollback --reason "error rate 2%"
      ulora rollback --from v5.5.4-dinov3 --reason "wrong labels"
      ulora rollback --to v5.5.2 --dry-run
      ulora rollback --only adapters/tomato --reason "tomato flags healthy leaves"
    """
    with sigterm_interrupts():
        where, began = place(registry), time.perf_counter()
        try:
            with time_limit(_SECONDS):
                done = registry.rollback(
                    change.channel, options, reason=change.reason, only=only, dry_run=change.dry_run
                )
        finally:
            out.say(where)  # not before: a terminal that was stopped, or a full pipe, would keep it from going back
        _answer(registry, out, done, change.dry_run, time.perf_counter() - began)
        if not change.dry_run:
            fleet = wait_for_followers(registry, out, done, afterwards.wait)
            for note in () if afterwards.no_mirror else registry.mirror():
                out.note(note)
            check_proofs(fleet, done)


def _answer(registry: Registry, out: Output, done: Change, dry_run: bool, seconds: float) -> None:
    """Say what was done, also if the look at the log below it is interrupted: the channel has moved."""
    try:
        done = _with_chain(registry, done)
    finally:
        out.change(done, f"{change_sentence(done, dry_run)} ({seconds:.2f} s)")
    for note in done.notes:
        out.note(note)


def _with_chain(registry: Registry, done: Change) -> Change:
    from registry.usecases.rollback import with_chain

    return with_chain(registry.wiring, done)

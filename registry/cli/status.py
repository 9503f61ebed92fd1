"""`ulora status`."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from registry.cli.options import registry_options
from registry.cli.output import Output, author, facts, place, table
from registry.errors import IntegrityError, StoreDenied
from registry.parallel import time_limit

if TYPE_CHECKING:
    from registry.answers import ChannelStatus, ProbeStatus
    from registry.api import Registry
    from registry.channels.trial_status import TrialStatus

_SECONDS = 30.0
"""After which it is given up, whatever the store does."""


@click.command("status", short_help="What every channel serves, and where a rollback would go.")
@registry_options
def status_command(registry: Registry, out: Output) -> None:
    """Show what is live in every channel, since when and by whom, where a rollback would go, a trial, and the replicas.

    PROOF compares the digests of the weights in a replica's memory, which it reports, with the version's manifest: ok,
    differs, not told (its release or its flavor does not), or unknown (the manifest can't be read).

    \b
    Example:
      ulora status --json | jq -r '.channels[] | select(.channel == "production").stable'
    """
    out.say(place(registry))
    with time_limit(_SECONDS):
        status = registry.status()
    out.answer(status, "\n\n".join([*map(_channel_text, status.channels), _probe_text(status.probed)]))
    _fail_if_unread([channel for channel in status.channels if channel.problem])


def _fail_if_unread(channels: list[ChannelStatus]) -> None:
    """What is broken counts more than what is refused."""
    problems = "; ".join(f"{channel.channel}: {channel.problem}" for channel in channels)
    if any(not channel.refused for channel in channels):
        raise IntegrityError(
            problems, hint="somebody wrote into the log: restore that object from a copy, then `ulora doctor`"
        )
    if channels:
        raise StoreDenied(
            problems, hint="was it written under a key of its writer's own? Ask them, or read as somebody who may"
        )


def _probe_text(probed: ProbeStatus | None) -> str:
    if probed is None:
        return "conditional writes were never tested by this machine: `ulora doctor` does"
    found = "honoured" if probed.honoured else "NOT honoured: change nothing until `ulora doctor` finds them so"
    return f"conditional writes last tested by this machine {probed.when}: {found}"


def _channel_text(channel: ChannelStatus) -> str:
    if channel.problem:
        return f"{channel.channel}: can't be read: {channel.problem}"
    if channel.stable is None:
        return f"{channel.channel}: empty"
    text = facts(
        {
            channel.channel: channel.stable,
            "  canary": channel.canary or "",
            "  trial": _trial_text(channel.trial) if channel.trial else "",
            "  generation": f"{channel.generation}: {channel.action} by {author(channel.who, channel.who_verified)}, "
            f"{channel.when}",
            "  reason": channel.reason,
            "  decided by": f"the guard, decision {channel.decision[:12]}" if channel.decision else "",
            "  overruled by force": channel.overruled,
            "  rollback goes to": channel.rollback_target or "nothing: there is no earlier version",
            "  withdrawn": channel.withdrawn,
        }
    )
    rows = [
        (
            replica.id, replica.version, replica.generation, replica.state, replica.rollback_ready,
            replica.proof, f"{replica.age:.0f} s", "; ".join(filter(None, (replica.error, replica.loading))),
        )
        for replica in channel.replicas
    ]  # fmt: skip
    replicas = table(("REPLICA", "VERSION", "GENERATION", "STATE", "ROLLBACK-READY", "PROOF", "HEARD", "ERROR"), rows)
    return f"{text}\n{textwrap.indent(replicas, '    ')}" if rows else text


def _trial_text(trial: TrialStatus) -> str:
    """The kind and share of a trial, its plan, and since when it is at this stage."""
    plan = f", plan {trial.plan}" if trial.plan else ""
    if trial.is_baking:
        return f"ended: it made the version stable, which is watched on{plan}; since {trial.since}"
    kind = f"split {trial.share}" if trial.kind == "split" else trial.share
    began = "" if trial.generation == trial.started_generation else f"; begun at generation {trial.started_generation}"
    return f"{kind}{plan}, since {trial.since}{began}"

"""`ulora promote`, `rollback`, `status`, `history`."""

from __future__ import annotations

import textwrap
import time
from typing import TYPE_CHECKING

import click

from registry.cli.options import channel_option, dry_run_option, reason_option, registry_options
from registry.cli.output import Output, facts, table
from registry.errors import IntegrityError, UloraError

if TYPE_CHECKING:
    from registry.answers import Change, ChannelStatus
    from registry.api import Registry
    from registry.evidence.gates import Verdict

_SIGNS = {"pass": "ok", "fail": "FAIL", "inconclusive": "?"}


@click.command("promote", short_help="Make a version stable in a channel, if the gates let it.")
@click.argument("version")
@channel_option("staging")
@click.option("--force", is_flag=True, help="Overrule the gates. Needs --reason.")
@click.option("--expected", type=click.IntRange(min=0), metavar="N", help="The generation you saw; refuse if it moved.")
@reason_option
@dry_run_option
@registry_options
def promote_command(
    registry: Registry,
    out: Output,
    *,
    version: str,
    channel: str,
    force: bool,
    expected: int | None,
    reason: str,
    dry_run: bool,
) -> None:
    """Make VERSION what a channel serves, if its files are whole and the policy's rules are met by recorded evidence.

    A refusal names the rules (exit 3) and is kept. If somebody else moved the channel first nothing changes (exit 4).
    `ulora rollback --channel …` undoes it.

    \b
    Examples:
      ulora promote v5.5.4-dinov3
      ulora promote v5.5.4-dinov3 --channel production --dry-run
      ulora promote v5.5.3-hotfix --channel production --force --reason "incident 42"
    """
    from registry.errors import GateRefused

    try:
        change = registry.promote(version, channel, reason=reason, force=force, expected=expected, dry_run=dry_run)
    except GateRefused as refused:
        out.say(_verdict_table(refused.verdict))  # type: ignore[arg-type]
        raise
    if change.verdict:
        out.say(_verdict_table(change.verdict))
    out.answer(change, _sentence(change, dry_run))
    for note in change.notes:
        out.note(note)


@click.command("rollback", short_help="Go back to the version before. Needs S3 only.")
@channel_option("production")
@click.option("--from", "leave", metavar="VERSION", help="What to get away from; exit 0 if that is done already.")
@click.option("--to", metavar="VERSION", help="Where to go; it must be on the stack, what is above it is withdrawn.")
@click.option("--only", multiple=True, metavar="COMPONENT", help="Only this part, e.g. adapters/tomato; repeatable.")
@click.option("--expected", type=click.IntRange(min=1), metavar="N", help="The generation you saw.")
@click.option("--again", is_flag=True, help="Go back one more, within a minute of another rollback.")
@click.option("--stable", "leave_stable", is_flag=True, help="With a canary running, leave stable too.")
@click.option(
    "--wait",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    help="Wait for the replicas; 0 does not.",
)
@click.option("--no-mirror", is_flag=True, help="Do not update MLflow afterwards.")
@reason_option
@dry_run_option
@registry_options
def rollback_command(
    registry: Registry,
    out: Output,
    *,
    channel: str,
    leave: str | None,
    to: str | None,
    only: tuple[str, ...],
    expected: int | None,
    again: bool,
    leave_stable: bool,
    wait: float,
    no_mirror: bool,
    reason: str,
    dry_run: bool,
) -> None:
    """Make the channel serve the version before, by one conditional write to S3. MLflow may be down.

    The version left is withdrawn: it comes back only by a promotion that is forced. Two people who roll back at once
    go back one step, not two.

    With --only the live version goes on, but for these components, which are those of the version before (or of the one
    that --to names). That is a version of its own; nothing is uploaded for it. Components made for another backbone or
    preprocessing are refused.

    \b
    Examples:
      ulora rollback --reason "error rate 2%"
      ulora rollback --from v5.5.4-dinov3 --reason "wrong labels"
      ulora rollback --to v5.5.2 --dry-run
      ulora rollback --only adapters/tomato --reason "tomato flags healthy leaves"
    """
    from registry.channels.channel import RollbackOptions

    began = time.perf_counter()
    options = RollbackOptions(leave=leave, expected=expected, to=to, again=again, leave_stable=leave_stable)
    change = registry.rollback(channel, reason=reason, options=options, only=only, dry_run=dry_run)
    out.answer(change, f"{_sentence(change, dry_run)} ({time.perf_counter() - began:.2f} s)")
    for note in change.notes:
        out.note(note)
    if not dry_run:
        _wait_for_replicas(registry, out, change, wait)
        for note in () if no_mirror else registry.mirror():
            out.note(note)


@click.command("status", short_help="What every channel serves, and where a rollback would go.")
@registry_options
def status_command(registry: Registry, out: Output) -> None:
    """Show what is live in every channel, since when and by whom, where a rollback would go, and the replicas.

    \b
    Example:
      ulora status --json | jq -r '.channels[] | select(.channel == "production").stable'
    """
    status = registry.status()
    out.answer(status, "\n\n".join(_channel_text(channel) for channel in status.channels))
    broken = [f"{channel.channel}: {channel.problem}" for channel in status.channels if channel.problem]
    if broken:
        raise IntegrityError(
            "; ".join(broken), hint="somebody wrote into the log: restore that object from a copy, then `ulora doctor`"
        )


@click.command("history", short_help="Every change of a channel: who, when, why.")
@channel_option("production")
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="Only the newest N.")
@registry_options
def history_command(registry: Registry, out: Output, *, channel: str, limit: int | None) -> None:
    """Show the records of a channel, newest first. Without --limit the whole chain is verified (exit 6 if broken).

    \b
    Example:
      ulora history --channel production -n 10
    """
    records = registry.history(channel, limit)
    rows = [
        (
            record.generation,
            record.action,
            record.stable.version if record.stable else None,
            record.canary.version if record.canary else None,
            _who(record.who, record.who_verified),
            record.when,
            record.reason or "-",
        )
        for record in records
    ]
    header = ("GENERATION", "ACTION", "STABLE", "CANARY", "WHO", "WHEN", "REASON")
    out.answer(records, table(header, rows) if rows else f"{channel} has no history yet")


def _sentence(change: Change, dry_run: bool) -> str:
    if change.action == "none":
        return f"{change.channel} serves {change.version or 'nothing'}; nothing to do (generation {change.generation})"
    would = "would go" if dry_run else "went"
    before = change.previous or "nothing"
    return (
        f"{change.channel} {would} from {before} to {change.version} by {change.action}, generation {change.generation}"
    )


def _verdict_table(verdict: Verdict) -> str:
    rows = [(_SIGNS[check.outcome], check.metric, check.target or "all", check.reason) for check in verdict.checks]
    forced = f"\nforced: {verdict.forced}" if verdict.forced else ""
    return (
        table(("", "CHECK", "TARGET", "REASON"), rows) + f"\nverdict for {verdict.channel}: {verdict.outcome}{forced}"
    )


def _channel_text(channel: ChannelStatus) -> str:
    if channel.problem:
        return f"{channel.channel}: can't be read: {channel.problem}"
    if channel.stable is None:
        return f"{channel.channel}: empty"
    text = facts(
        {
            channel.channel: channel.stable,
            "  canary": f"{channel.canary} with {channel.canary_weight:g}%" if channel.canary else "",
            "  generation": f"{channel.generation}: {channel.action} by {_who(channel.who, channel.who_verified)}, "
            f"{channel.when}",
            "  reason": channel.reason,
            "  rollback goes to": channel.rollback_target or "nothing: there is no earlier version",
            "  withdrawn": channel.withdrawn,
        }
    )
    rows = [
        (
            replica.id,
            replica.version,
            replica.generation,
            replica.state,
            replica.rollback_ready,
            f"{replica.age:.0f} s",
            replica.error,
        )
        for replica in channel.replicas
    ]
    replicas = table(("REPLICA", "VERSION", "GENERATION", "STATE", "ROLLBACK-READY", "HEARD", "ERROR"), rows)
    return f"{text}\n{textwrap.indent(replicas, '    ')}" if rows else text


def _who(who: str | None, verified: bool) -> str:
    """Who did it; nothing proves it unless something verified it."""
    return f"{who}" if verified else f"{who} (unverified)"


def _wait_for_replicas(registry: Registry, out: Output, change: Change, wait: float) -> None:
    from registry.serving.fleet import wait_for_replicas

    if not wait > 0:
        return
    try:
        fleet = wait_for_replicas(registry.store, registry.model, change.channel, change.generation, wait)
    except UloraError as error:  # the log has moved: nothing that follows may look like a failure
        out.note(f"the replicas can't be seen: {error}")
        return
    if fleet.followed:
        out.say(f"{len(fleet.followed)} replicas serve it")
    if fleet.behind:
        names = ", ".join(replica.heartbeat.id for replica in fleet.behind[:5])
        out.note(f"{len(fleet.behind)} replicas did not follow within {wait:g} s: {names}; look with `ulora status`")

"""`ulora canary`: start, advance, abort, report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from registry.errors import GateRefused

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.usecases.options import AbortOptions, AdvanceOptions, CanaryOptions, ReportOptions

_EXPECTED = click.option(
    "--expected", type=click.IntRange(min=0), metavar="N", help="The generation you saw; refuse if it moved."
)


def _share(name: str, *names: str, **more: Any) -> Callable[[click.decorators.FC], click.decorators.FC]:
    return click.option(name, *names, type=click.FloatRange(0, 100, min_open=True), metavar="PERCENT", **more)


@click.group("canary", short_help="Try a version beside stable: start, advance, abort, report.")
def canary_command() -> None:
    """Try a version on real traffic beside the stable one, before everybody gets it.

    In a split trial it answers a share of the keys, always the same ones. In a shadow trial stable answers everything,
    and the version computes beside it. A channel has one trial at a time.

    \b
    Examples:
      ulora canary start v5.5.4-dinov3 --percent 10
      ulora canary advance --to 50
      ulora canary abort --reason "more errors than stable"
      ulora canary report
    """


@canary_command.command("start", short_help="Begin a trial, if the gates pass.")
@click.argument("version", shell_complete=complete_versions)
@channel_option("production")
@_share("--percent", help="The keys that VERSION answers; with --shadow, the requests that both compute [all].")
@click.option("--shadow", is_flag=True, help="Stable answers everything; VERSION computes beside it.")
@click.option("--plan", metavar="NAME", help="The plan of the policy by which the guard advances it.")
@click.option("--force", is_flag=True, help="Overrule the gates. Needs --reason.")
@_EXPECTED
@wait_option(0.0)
@reason_option
@dry_run_option
@registry_options
@options_as("registry.usecases.options:CanaryOptions")
@options_as(ChangeOptions, "change")
def start_command(
    registry: Registry, out: Output, *, version: str, options: CanaryOptions, change: ChangeOptions, wait: float
) -> None:
    """Try VERSION beside what a channel serves, if the gates pass, as for `ulora promote`.

    A refusal names the rules (exit 3) and is kept. While another trial runs, or if somebody else moved the channel
    first, nothing changes (exit 4). The rollback script of the stable version, which is left in the store, ends it too.

    \b
    Examples:
      ulora canary start v5.5.4-dinov3 --percent 10
      ulora canary start v5.5.4-dinov3 --shadow --percent 25 --dry-run
      ulora canary start v5.5.4-dinov3 --percent 10 --plan careful
    """
    with sigterm_interrupts():
        out.say(place(registry))
        done = judged(
            out,
            lambda: registry.canary.start(
                version, change.channel, options, reason=change.reason, dry_run=change.dry_run
            ),
        )
        answer(registry, out, done, dry_run=change.dry_run, wait=wait)


@canary_command.command("advance", short_help="Give the version on trial a larger share; 100 makes it stable.")
@channel_option("production")
@_share("--to", required=True, help="Its share from now on: larger than before. 100 makes it stable.")
@click.option("--force", is_flag=True, help="Also where the channel is frozen. Needs --reason.")
@_EXPECTED
@wait_option(0.0)
@reason_option
@dry_run_option
@registry_options
@options_as("registry.usecases.options:AdvanceOptions")
@options_as(ChangeOptions, "change")
def advance_command(
    registry: Registry, out: Output, *, to: float, options: AdvanceOptions, change: ChangeOptions, wait: float
) -> None:
    """Raise the share of the keys that the version on trial answers. Each share is a stage of the trial.

    At 100 it becomes stable, and the version before goes on the stack, where `ulora rollback` finds it. A shadow trial
    has no share to raise: it goes to 100, or ends. A smaller share is a new trial.

    \b
    Examples:
      ulora canary advance --to 50
      ulora canary advance --to 100 --expected 12 --reason "two days without a regression"
    """
    with sigterm_interrupts():
        out.say(place(registry))
        done = registry.canary.advance(change.channel, to, options, reason=change.reason, dry_run=change.dry_run)
        answer(registry, out, done, dry_run=change.dry_run, wait=wait)


@canary_command.command("abort", short_help="End a trial: stable answers everything again.")
@channel_option("production")
@_EXPECTED
@wait_option(10.0)
@reason_option
@dry_run_option
@registry_options
@options_as("registry.usecases.options:AbortOptions")
@options_as(ChangeOptions, "change")
def abort_command(
    registry: Registry, out: Output, *, options: AbortOptions, change: ChangeOptions, wait: float
) -> None:
    """End the trial of a channel: its version is withdrawn, and stable answers everything. MLflow may be down.

    A bare `ulora rollback` does the same while a trial runs, and so does the rollback script of the stable version.
    If the version has become stable meanwhile, nothing changes (exit 4).

    \b
    Example:
      ulora canary abort --reason "more errors than stable"
    """
    with sigterm_interrupts():
        out.say(place(registry))
        done = registry.canary.abort(change.channel, options, reason=change.reason, dry_run=change.dry_run)
        answer(registry, out, done, dry_run=change.dry_run, wait=wait)
        for note in () if change.dry_run else registry.mirror():
            out.note(note)


@canary_command.command("report", short_help="What a trial has shown so far: ship, keep, keep running, or broken.")
@channel_option("production")
@click.option("--trial", metavar="ID", help="Which trial; the beginning of its id is enough.  [default: the newest]")
@click.option("--generation", type=click.IntRange(min=1), metavar="N", help="The trial that has this generation.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a page, with plots."
)
@click.option("--log/--no-log", default=True, show_default=True, help="Show it in MLflow, as a run of both versions.")
@click.option("--exit-code", is_flag=True, help="Exit with 3 unless the verdict is `ship`.")
@registry_options
@options_as("registry.usecases.options:ReportOptions")
def report_command(
    registry: Registry, out: Output, *, channel: str, options: ReportOptions, html: Path | None, exit_code: bool
) -> None:
    """Report a trial that runs, or one that has ended: what each version did, how they differ, and one verdict.

    Before the horizon that the policy declares (`trials.horizon`) it says `keep running`, unless the version is surely
    worse: e-values may be looked at as often as one likes. At the horizon it is `ship` or `keep`, by tests that may be
    looked at once. If an arm has not its share of the units, or of the labels, nothing can be said: `broken`.

    What replicas have counted is kept for 7 days after a trial. A report is a run in MLflow, once for the same counts.

    \b
    Examples:
      ulora canary report
      ulora canary report --html report.html --no-log
      ulora canary report --generation 12 --json | jq -r .report.verdict.outcome
    """
    from registry.cli.canary_text import report_text

    found = registry.canary.report(channel, options)
    if html:
        from registry.formats.own_file import is_page, write_own_text
        from registry.usecases.trial_page import page

        write_own_text(html, page(found.report), is_page, hint="give another --html FILE")
    out.answer({"report": found.report.document(), "run": found.run, "notes": found.notes}, report_text(found.report))
    for note in (*found.notes, *([f"logged in MLflow as run {found.run}"] if found.run else [])):
        out.note(note)
    if exit_code and found.report.verdict.outcome != "ship":
        raise click.exceptions.Exit(GateRefused.exit_code)

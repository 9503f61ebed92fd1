"""`ulora test`."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_versions
from registry.cli.options import (
    channel_option,
    device_option,
    dry_run_option,
    folder,
    offline_option,
    options_as,
    registry_options,
    runtime_option,
)
from registry.cli.output import Output, place, table
from registry.cli.signals import sigterm_interrupts
from registry.formats.counts import counted
from registry.usecases.version_test_options import MAX_REQUESTS, MAX_TIMEOUT, TOKEN, TestOptions

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.usecases.check_results import VersionTest


@click.command("test", short_help="Test a version before it is deployed, or what is deployed.")
@click.argument("version", shell_complete=complete_versions)
@channel_option("production")
@click.option("--drill", is_flag=True, help="Promote it and roll it back in a scratch channel, drill-….")
@click.option("--tests", type=folder, metavar="DIR", help="Run these pytest files too.")
@click.option(
    "--timeout", default=600.0, show_default=True, type=click.FloatRange(0, MAX_TIMEOUT, min_open=True),
    metavar="SECONDS", help="For all of these.",
)  # fmt: skip
@device_option
@runtime_option
@click.option("--deployed", metavar="URL", help="Test what answers there instead. [token: ULORA_TOKEN]")
@click.option("--data", type=folder, metavar="DIR", help="Send images of this folder there.")
@click.option(
    "--requests", default=50, show_default=True, type=click.IntRange(1, MAX_REQUESTS), metavar="N",
    help="How many, for the latency.",
)  # fmt: skip
@click.option("--max-latency", type=click.FloatRange(0, min_open=True), metavar="MS", help="What p95 may take.")
@click.option("--record/--no-record", default=True, show_default=True, help="Keep the result as evidence.")
@offline_option
@dry_run_option
@registry_options
@options_as(TestOptions)
def test_command(registry: Registry, out: Output, *, version: str, options: TestOptions, dry_run: bool) -> None:
    """Test VERSION before it is deployed: its files in the store, its recorded outputs, and whether a channel would
    take it, as `ulora promote --dry-run` judges.

    --tests runs a team's own pytest files, which get the fixtures `version`, `manifest` and `loaded`, in a process of
    its own. Files that are named for another version are left out.

    With --deployed it asks a replica instead: live, ready, version, digests, answers as computed here, what it refuses,
    and how long answers take.

    The result is kept as evidence, and a policy can ask for it: `{metric: version_tests, min: 1}`. The exit status is
    that of the first check that did not pass: 1 failed, 3 gate refused, 6 integrity, 7 unreachable, or another of
    `ulora --help`.

    \b
    Examples:
      ulora test v5.5.4-dinov3 --drill --tests tests/
      ulora test v5.5.4-dinov3 --channel staging --dry-run
      ulora test v5.5.4-dinov3 --deployed http://localhost:8000 --max-latency 200
    """
    options = replace(options, token=os.environ.get(TOKEN, ""))
    with sigterm_interrupts():
        out.say(place(registry))
        found = registry.test(version, options, dry_run=dry_run, say=out.note)
        out.answer(found.document(), _text(found))
    if found.failure:
        raise found.failure


def _text(found: VersionTest) -> str:
    """A check a line, what it found in detail below, and how many passed."""
    rows = [(one.name, one.outcome, f"{one.seconds:.1f} s", one.said) for one in found.checks]
    details = [
        f"\n{one.name}:\n" + "\n".join(f"  {line}" for line in one.lines) for one in found.checks if one.lines
    ]  # fmt: skip
    made = [one for one in found.checks if one.outcome != "skipped"]
    passed = sum(one.outcome == "passed" for one in made)
    summary = f"{passed} of {counted(len(made), 'check')} passed"
    return "\n".join([table(("CHECK", "OUTCOME", "TIME", "FOUND"), rows), *details, summary])

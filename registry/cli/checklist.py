"""`ulora checklist`."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_versions
from registry.cli.options import channel_option, dry_run_option, options_as, reason_option, registry_options
from registry.cli.output import Output, place, table
from registry.formats.counts import counted

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.usecases.audit_options import ChecklistOptions
    from registry.usecases.checklist import Checklist

_STAGES = ("before", "during", "pre-deploy", "deploy", "after")


@click.command("checklist", short_help="The checklists of a release: what is done, and what is open.")
@click.argument("version", shell_complete=complete_versions)
@click.option("--stage", type=click.Choice(_STAGES), help="One of the five lists. [all]")
@channel_option("production")
@click.option("--tick", multiple=True, metavar="LINE", help="Say that a line is done that only a person can know of.")
@click.option("--untick", multiple=True, metavar="LINE", help="Take ticks of a line back.")
@reason_option
@dry_run_option
@registry_options
@options_as("registry.usecases.audit_options:ChecklistOptions")
def checklist_command(
    registry: Registry, out: Output, *, version: str, options: ChecklistOptions, reason: str, dry_run: bool
) -> None:
    """Go through the checklists of a release of VERSION: before implementing, during it, before deploying, deploying,
    and after it. What can be found out is found out in the store; the other lines are ticked by people, and who ticked
    them, when and why is kept for ever.

    The exit status is 3 while a line that is asked for is open, so that a pipeline stops there. With --tick and
    --untick it is 0 once that is kept. A tick is for the version's present content and the channel.

    \b
    Examples:
      ulora checklist v5.5.4-dinov3
      ulora checklist v5.5.4-dinov3 --stage pre-deploy --json
      ulora checklist v5.5.4-dinov3 --tick documentation --reason "README and CHANGELOG are in the merge request"
      ulora checklist v5.5.4-dinov3 --untick documentation --reason "the screenshots are old"
    """
    out.say(place(registry))
    found = registry.checklist(version, options, reason=reason, dry_run=dry_run)
    out.answer(found.document(), _text(found))
    if found.failure and not (options.tick or options.untick):
        raise found.failure


def _text(found: Checklist) -> str:
    from registry.usecases.checklist_lines import TITLES

    parts = []
    for stage, lines in groupby(found.lines, key=lambda line: line.stage):
        rows = [(each.state, each.id, each.text, each.said, each.command if not each.ok else "") for each in lines]
        parts.append(f"{TITLES[stage]}\n" + table(("STATE", "LINE", "ASKED", "FOUND", "BY"), rows))
    done = len(found.lines) - len(found.open)
    return "\n\n".join([*parts, f"{done} of {counted(len(found.lines), 'line')} done"])

"""`ulora apply`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.channels.committed import told
from registry.cli.changes import refusal_shown
from registry.cli.options import reason_option, registry_options
from registry.cli.output import Output, change_sentence, checks, place
from registry.cli.signals import sigterm_interrupts
from registry.errors import GateRefused, NotNow

if TYPE_CHECKING:
    from registry.answers import Change
    from registry.api import Registry
    from registry.usecases.apply import Preview, WantedState


@click.command("apply", short_help="Bring channels to the state that a file in Git wants.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--plan", "--dry-run", "only_plan", is_flag=True, help="Only say what would happen, and what the gates say."
)
@click.option("--allow-back", is_flag=True, help="Also roll back, and end trials, where the file wants that.")
@reason_option
@registry_options
def apply_command(
    registry: Registry, out: Output, *, file: Path, only_plan: bool, allow_back: bool, reason: str
) -> None:
    """Bring channels to what FILE wants, staging first: by promotions and trials that the gates judge as always.

    FILE is YAML, kept in Git; docs/channels-in-git.md has its format. A channel that it does not name is left alone. A
    version that was rolled back is not promoted again, and one that the guard has made stable is not left: such a
    channel is held, and then nothing is changed in any (exit 4). A rollback, and the end of a trial, need --allow-back.
    A refused step ends it (exit 3); what was done before stands, and the same command goes on there.

    With --plan nothing is written. Of several steps in a channel only the first can be judged before it is its turn.
    With --json each change, or each channel of a plan, is a line.

    \b
    Examples:
      ulora apply channels.yaml --plan
      ulora apply channels.yaml --reason "pull request 42"
      ulora apply channels.yaml --allow-back --reason "revert of pull request 42"
    """
    with sigterm_interrupts():
        wanted = registry.wanted(file)
        out.say(place(registry))
        if only_plan:
            _show(out, wanted.plan(reason=reason, allow_back=allow_back))
        else:
            _apply(out, wanted, reason, allow_back)


def _apply(out: Output, wanted: WantedState, reason: str, allow_back: bool) -> None:
    def tell(change: Change) -> None:
        out.event(change, change_sentence(change, dry_run=False))
        told()
        for note in change.notes:
            out.note(note)

    with refusal_shown(out):
        changes = wanted.apply(reason=reason, allow_back=allow_back, tell=tell, say=out.note)
    if not changes:
        out.event({"changes": 0}, "the channels are as the file wants them; nothing to do")


def _show(out: Output, previews: list[Preview]) -> None:
    """Print a plan; what could not be done by it ends the command as it would end `ulora apply`."""
    out.answer({"channels": [_document(preview) for preview in previews]}, "\n".join(map(_text, previews)))
    if any(preview.plan.held for preview in previews):
        raise click.exceptions.Exit(NotNow.exit_code)
    if any(preview.refused for preview in previews):
        raise click.exceptions.Exit(GateRefused.exit_code)


def _text(preview: Preview) -> str:
    plan = preview.plan
    verdict = preview.verdict
    what = "held" if plan.held else ", then ".join(map(str, plan.steps)) or "nothing to do"
    lines = [f"{plan.channel} (generation {plan.generation}): {what}"]
    lines += [f"  {line}" for line in (plan.held, plan.note) if line]
    lines += [f"  {line}" for line in checks(verdict).splitlines()] if verdict else []
    return "\n".join(lines)


def _document(preview: Preview) -> dict[str, Any]:
    plan = preview.plan
    return {
        "channel": plan.channel,
        "generation": plan.generation,
        "steps": [{"action": step.action, "version": step.version, "says": str(step)} for step in plan.steps],
        "held": plan.held,
        "note": plan.note,
        "verdict": preview.verdict,
        "refused": str(preview.refused or ""),
    }

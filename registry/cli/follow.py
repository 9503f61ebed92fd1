"""`ulora follow`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_channels
from registry.cli.logs import FORMATS, start_logging
from registry.cli.options import dry_run_option, folder, options_as, registry_options
from registry.cli.output import Output, megabytes, some
from registry.cli.signals import sigterm_interrupts, stopping
from registry.errors import BadInput
from registry.formats.counts import counted
from registry.names import check_channel

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.serving.sidecar_round import KeptVersion, SidecarOptions


@dataclass(frozen=True)
class FollowMode:
    """Whether it goes on, and how it logs then."""

    once: bool
    dry_run: bool
    log_format: str


def _check_channel(context: click.Context, parameter: click.Parameter, name: str) -> str:
    # Before anything is imported or asked for it.
    return check_channel(name)


@click.command("follow", short_help="Keep a folder at what a channel serves, for a server of your own.")
@click.argument("channel", shell_complete=complete_channels, callback=_check_channel)
@click.option("--into", type=folder, required=True, metavar="DIR", help="The folder; it must be empty, new or ours.")
@click.option("--exec", "command", metavar="CMD", help="Run by sh whenever DIR/current was moved.")
@click.option(
    "--exec-timeout",
    "hook_seconds",
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="After that CMD is ended, and counts as failed.",
)
@click.option(
    "--layout",
    type=click.Choice(["bundle", "peft"]),
    default="bundle",
    show_default=True,
    help="All files of a version; or a PEFT folder for each target.",
)
@click.option(
    "--keep",
    default=1,
    show_default=True,
    type=click.IntRange(0, 10),
    help="How many rollback targets to hold ready beside current.",
)
@click.option("--once", is_flag=True, help="Bring the folder to what the channel serves now, and end.")
@click.option("--log-format", type=click.Choice(FORMATS), default="text", show_default=True, help="Of its log lines.")
@dry_run_option
@registry_options
@options_as("registry.serving.sidecar_round:SidecarOptions")
@options_as(FollowMode, "how")
def follow_command(
    registry: Registry, out: Output, *, channel: str, into: Path, how: FollowMode, options: SidecarOptions
) -> None:
    """Keep DIR at what CHANNEL serves: each version in a folder of its own below DIR/versions/, every file verified,
    and DIR/current a link to one of them, replaced by a rename: at every instant it leads to a whole version.

    Then CMD runs, with ULORA_VERSION, ULORA_FOLDER, ULORA_GENERATION, ULORA_BEFORE, ULORA_ACTION, ULORA_CHANNEL and
    ULORA_MODEL. If it fails it is run again, after 1, 2, 4, … at most 60 s; current stays where it is.

    The next rollback target is there too, so a rollback downloads nothing; other old versions are deleted. Ctrl-C and
    SIGTERM end it with 0. It goes on through outages of the store, and after a kill the next start puts all right.

    \b
    Examples:
      ulora follow production --into /srv/aads --exec 'kill -HUP "$(cat /run/app.pid)"'
      ulora follow production --into /srv/loras --layout peft
      ulora follow staging --into served --once --dry-run
    """
    if options.command is not None and not options.command.strip():
        raise BadInput("--exec has an empty command", hint="leave it out to run none")
    sidecar = registry.sidecar(channel, into, options)
    if how.dry_run:
        planned = sidecar.plan()
        out.answer(planned, _plan_text(planned, into))
    elif how.once:
        with sigterm_interrupts():
            done = sidecar.once()
        out.answer(done, _text(done, into))
        _note(out, done)
    else:
        start_logging(how.log_format)
        lines = _Lines(out, into)
        with stopping(sidecar.close):
            sidecar.run(lines.tell)


class _Lines:
    """Standard output of a command that goes on: each round with --json, else the first; the log has the others."""

    def __init__(self, out: Output, into: Path) -> None:
        self._out = out
        self._into = into
        self._is_first = True

    def tell(self, done: KeptVersion) -> None:
        if self._is_first or self._out.as_json:
            self._out.event(done, _text(done, self._into))
        self._is_first = False


def _text(done: KeptVersion, into: Path) -> str:
    link = into / "current"
    was = f", before {done.before}" if done.before and done.moved else ""
    state = f"{link} is {done.version}{was}" if done.moved else f"{link} is {done.version} already"
    ready = f"; a rollback to {', '.join(done.ready)} is ready" if done.ready else ""
    return f"{state}: {counted(done.files, 'file')}, {megabytes(done.size)}, generation {done.generation}{ready}"


def _plan_text(planned: KeptVersion, into: Path) -> str:
    link = into / "current"
    lines = [
        f"{link} is {planned.version} already"
        if not planned.moved
        else f"would make {link} {planned.version} (it is {planned.before or 'not there'})"
    ]
    if planned.written:
        lines.append(f"would write {counted(planned.files, 'file')}, {megabytes(planned.size)}")
    if planned.left_out:
        lines.append(f"would leave out {some(planned.left_out)}")
    if planned.hook == "due":
        lines.append("would run the hook")
    return "\n".join([*lines, *(f"would delete {place}" for place in planned.removed)])


def _note(out: Output, done: KeptVersion) -> None:
    if done.left_out:
        out.note(f"left out, as the layout has no place for it: {some(done.left_out)}")
    if done.unready:
        out.note(done.unready)

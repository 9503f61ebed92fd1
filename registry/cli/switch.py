"""`ulora switch`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_versions
from registry.cli.options import dry_run_option, folder, lazy_registry_options
from registry.cli.output import Output, megabytes, some
from registry.cli.signals import sigterm_interrupts
from registry.errors import CorruptBlob
from registry.formats.counts import counted

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.tree.switch import CurrentVersion, Switched

_PAST = {"made": "written", "kept": "there already, whole", "repaired": "was damaged, written again"}


@click.command("switch", short_help="Make DIR/current a link to a version, or show what it is.")
@click.argument("version", required=False, shell_complete=complete_versions)
@click.option("--root", type=folder, required=True, metavar="DIR", help="The folder of versions/ and current.")
@dry_run_option
@lazy_registry_options
def switch_command(
    open_registry: Callable[[], Registry], out: Output, *, version: str | None, root: Path, dry_run: bool
) -> None:
    """Put VERSION into DIR/versions/VERSION/, verified, and make DIR/current a link to it. The link is replaced by a
    rename: at every instant it leads to the old version or to the new one.

    A version that is there already is checked by hash; if files are damaged it is written again, and the damaged folder
    is kept in DIR/.ulora/replaced/. Without VERSION: show what `current` is, and whether its files have the right
    digests (exit 6 if not); that needs no server.

    \b
    Examples:
      ulora switch v5.5.3-performance --root /srv/aads
      ulora switch --root /srv/aads
    """
    if version is None:
        _show_current(out, root)
        return
    with sigterm_interrupts():
        switched = open_registry().switch(
            version, root, dry_run=dry_run, progress=lambda size: out.progress(size, "fetching")
        )
    out.answer(switched, _switch_text(switched, dry_run))
    if switched.done and switched.before and switched.before != version:
        out.say(f"undo it with: ulora switch {shlex.quote(switched.before)} --root {shlex.quote(str(root))}")
    if switched.replaced:
        out.note(f"the damaged folder is kept in {switched.replaced}: {some(switched.repaired)}")


def _show_current(out: Output, root: Path) -> None:
    from registry.tree.switch import current

    found = current(root)
    out.answer(found, _current_text(found))
    if not found.ok:
        raise CorruptBlob(
            f"{root / 'current'}: {counted(len(found.bad), 'file')} missing or changed: {some(found.bad)}",
            hint=f"ulora switch {found.version} --root {shlex.quote(str(root))} writes it again",
        )


def _current_text(found: CurrentVersion) -> str:
    state = "all whole" if found.ok else f"{len(found.bad)} missing or changed"
    return (
        f"{found.root / 'current'} is {found.version}: {counted(found.files, 'file')}, {megabytes(found.size)}, {state}"
    )


def _switch_text(switched: Switched, dry_run: bool) -> str:
    link = switched.root / "current"
    place = f"versions/{switched.version}"
    if dry_run:
        does = {"made": "would be written", "kept": "is there, whole", "repaired": "is damaged, would be written again"}
        return f"would make {link} {switched.version} (it is {switched.before or 'not there'}); " + (
            f"{place} {does[switched.folder]}"
        )
    if not switched.done:
        return f"{link} is {switched.version} already, whole: {counted(switched.files, 'file')}"
    was = f", before {switched.before}" if switched.before else ""
    return (
        f"{link} is {switched.version}{was}; {place} {_PAST[switched.folder]}: "
        f"{counted(switched.files, 'file')}, {megabytes(switched.size)}"
    )

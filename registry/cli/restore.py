"""`ulora restore`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_versions
from registry.cli.options import dry_run_option, folder, lazy_registry_options, options_as
from registry.cli.output import Output, some
from registry.cli.signals import sigterm_interrupts
from registry.errors import BadInput
from registry.usecases.options import RestoreOptions

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.tree.restore import Restored
    from registry.tree.restore_plan import TreeFile

_SHOWN = 40
_TARGET = Path("current")


@click.command("restore", short_help="Put a version's files into a folder, all at once.")
@click.argument("version", required=False, shell_complete=complete_versions)
@click.option("--target", type=folder, default=_TARGET, show_default=True, metavar="DIR", help="The folder.")
@click.option("--only", multiple=True, metavar="PATH", help="Only this file, folder or component; repeatable.")
@click.option("--clean", is_flag=True, help="Remove also what the version does not have (into the stash; never .git).")
@click.option("--undo", "undo_id", metavar="ID", help="Undo the restore of this id, from the stash; needs no store.")
@dry_run_option
@lazy_registry_options
@options_as(RestoreOptions)
def restore_command(
    open_registry: Callable[[], Registry], out: Output, *, version: str | None, target: Path, options: RestoreOptions,
    undo_id: str | None, dry_run: bool,
) -> None:  # fmt: skip
    """Make DIR hold what VERSION holds. Bytes are verified; the new tree is built beside DIR and replaces it at one
    instant, so whatever interrupts it leaves the old tree or the new one. The same command again finishes it.

    What the version does not have (data, logs, .git) is kept, except what an earlier restore put there. Whatever is
    replaced or removed, local edits too, goes into a stash beside DIR first, and the command that undoes it is printed.
    Links are never followed: one that is in the way is refused (exit 6).

    \b
    Examples:
      ulora restore v5.5.3-performance --dry-run
      ulora restore v5.5.3-performance --target /srv/aads/current
      ulora restore v5.5.3-performance --only config/ --only adapters/tomato
      ulora restore --undo 20261121T210455-3f2a --target /srv/aads/current
    """
    if (version is None) == (undo_id is None):
        raise BadInput("say which version to restore, or --undo ID", hint="`ulora list` shows the versions")
    with sigterm_interrupts():
        if version is not None:
            restored = open_registry().restore(
                version, target, options, dry_run=dry_run, progress=lambda size: out.progress(size, "fetching")
            )
        else:
            restored = _undo(undo_id or "", target, options, dry_run)
    command = f"ulora restore --undo {restored.undo} --target {shlex.quote(str(target))}" if restored.undo else ""
    document = {field.name: getattr(restored, field.name) for field in dataclasses.fields(restored)}
    out.answer({**document, "edited": restored.edited, "undo_command": command}, _plan_text(restored, dry_run))
    if command:
        out.say(f"undo it with: {command}")
    for path in restored.late:
        out.note(f"{path} was changed meanwhile: it is in the new tree, or in the stash if another file took its place")


def _undo(undo_id: str, target: Path, options: RestoreOptions, dry_run: bool) -> Restored:
    from registry.tree.restore import undo

    if options != RestoreOptions():
        raise BadInput("--undo puts back all that a restore changed", hint="leave --only and --clean out")
    return undo(undo_id, target, dry_run=dry_run)


def _plan_text(restored: Restored, dry_run: bool) -> str:
    counts = {
        "added": len(restored.added),
        "changed": len(restored.changed),
        "removed": len(restored.removed),
        "unchanged": restored.unchanged,
        "kept": len(restored.kept),
    }
    did = "would restore" if dry_run else "restored" if restored.done else "nothing to restore:"
    head = f"{did} {restored.version} in {restored.target}: " + ", ".join(
        f"{count} {name}" for name, count in counts.items()
    )
    lines = [
        *_lines("added", restored.added),
        *_lines("changed", restored.changed),
        *_lines("removed", restored.removed),
        *([f"  kept     {some(sorted({_top(path) for path in restored.kept}))}"] if restored.kept else []),
    ]
    return "\n".join([head, *lines])


def _lines(name: str, files: Sequence[TreeFile]) -> list[str]:
    lines = [f"  {name:<8} {file.path}  {_facts(file)}" for file in files[:_SHOWN]]
    return lines + ([f"  {name:<8} … and {len(files) - _SHOWN} more"] if len(files) > _SHOWN else [])


def _facts(file: TreeFile) -> str:
    mode = f"{file.was} -> {file.mode}" if file.was and file.was != file.mode else file.mode
    return f"{mode}  a local edit: into the stash" if file.edited else mode


def _top(path: str) -> str:
    first, slash, _ = path.partition("/")
    return first + slash

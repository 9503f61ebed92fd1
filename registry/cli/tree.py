"""`ulora restore`, `switch`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.options import dry_run_option, folder, lazy_registry_options
from registry.cli.output import Output, megabytes
from registry.cli.versions import sigterm_interrupts
from registry.errors import BadInput, CorruptBlob

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.tree.restore import Restored
    from registry.tree.restore_plan import TreeFile
    from registry.tree.switch import CurrentVersion, Switched

_SHOWN = 40
_TARGET = Path("current")
_PAST = {"made": "materialised", "kept": "there already, whole", "repaired": "was damaged, written again"}


@click.command("restore", short_help="Put a version's files into a folder, all at once.")
@click.argument("version", required=False)
@click.option("--target", type=folder, default=_TARGET, show_default=True, metavar="DIR", help="The folder.")
@click.option("--only", multiple=True, metavar="PATH", help="Only this file, folder or component. May be repeated.")
@click.option("--clean", is_flag=True, help="Remove also what the version does not have (into the stash; never .git).")
@click.option("--undo", "undo_id", metavar="ID", help="Undo the restore of this id, from the stash; needs no store.")
@dry_run_option
@lazy_registry_options
def restore_command(
    open_registry: Callable[[], Registry],
    out: Output,
    *,
    version: str | None,
    target: Path,
    only: tuple[str, ...],
    clean: bool,
    undo_id: str | None,
    dry_run: bool,
) -> None:
    """Make DIR hold what VERSION holds. Bytes are verified; the new tree is built beside DIR and takes its place at one
    instant, so whatever interrupts it leaves the old tree or the new one. The same command again finishes.

    What the version does not have (data, logs, .git) is kept, but for what an earlier restore put there. Whatever is
    replaced or removed, local edits above all, goes into a stash beside DIR first, and the command that undoes it is
    printed. Links are never followed: one that is in the way is refused (exit 6).

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
            registry = open_registry()
            restored = registry.restore(
                version, target, only=only, clean=clean, dry_run=dry_run,
                progress=lambda size: out.progress(size, "fetching"),
            )  # fmt: skip
        else:
            restored = _undo(undo_id or "", target, only, clean, dry_run)
    command = f"ulora restore --undo {restored.undo} --target {shlex.quote(str(target))}" if restored.undo else ""
    document = {field.name: getattr(restored, field.name) for field in dataclasses.fields(restored)}
    out.answer({**document, "edited": restored.edited, "undo_command": command}, _plan_text(restored, dry_run))
    if command:
        out.say(f"undo it with: {command}")
    for path in restored.late:
        out.note(f"{path} was changed while this ran: it is in the new tree, or in the stash where its place was taken")


def _undo(undo_id: str, target: Path, only: Sequence[str], clean: bool, dry_run: bool) -> Restored:
    from registry.tree.restore import undo

    if only or clean:
        raise BadInput("--undo puts back all that a restore changed", hint="leave --only and --clean out")
    return undo(undo_id, target, dry_run=dry_run)


@click.command("switch", short_help="Make DIR/current a link to a version, or show what it is.")
@click.argument("version", required=False)
@click.option("--root", type=folder, required=True, metavar="DIR", help="The folder of versions/ and current.")
@dry_run_option
@lazy_registry_options
def switch_command(
    open_registry: Callable[[], Registry], out: Output, *, version: str | None, root: Path, dry_run: bool
) -> None:
    """Put VERSION into DIR/versions/VERSION/, verified, and make DIR/current a link to it. The link is replaced by a
    rename: whoever looks finds the old version or the new one, at no instant neither.

    A version that is there already is checked by hash; if files are damaged it is written again, and the damaged folder
    is kept in DIR/.ulora/replaced/. Without VERSION: what `current` is, and whether its files still hash right (exit 6
    if not); that asks no server.

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
        out.note(f"the damaged folder is kept in {switched.replaced}: {_some(switched.repaired)}")


def _show_current(out: Output, root: Path) -> None:
    from registry.tree.switch import current

    found = current(root)
    out.answer(found, _current_text(found))
    if not found.ok:
        raise CorruptBlob(
            f"{root / 'current'}: {len(found.bad)} files are missing or changed: {_some(found.bad)}",
            hint=f"ulora switch {found.version} --root {shlex.quote(str(root))} writes it again",
        )


def _current_text(found: CurrentVersion) -> str:
    state = "all whole" if found.ok else f"{len(found.bad)} missing or changed"
    return f"{found.root / 'current'} is {found.version}: {found.files} files, {megabytes(found.size)}, {state}"


def _switch_text(switched: Switched, dry_run: bool) -> str:
    link = switched.root / "current"
    place = f"versions/{switched.version}"
    if dry_run:
        does = {"made": "would be written", "kept": "is there, whole", "repaired": "is damaged, would be written again"}
        return f"would make {link} {switched.version} (it is {switched.before or 'not there'}); " + (
            f"{place} {does[switched.folder]}"
        )
    if not switched.done:
        return f"{link} is {switched.version} already, all {switched.files} files whole"
    was = f", before {switched.before}" if switched.before else ""
    return (
        f"{link} is {switched.version}{was}; {place} {_PAST[switched.folder]}: "
        f"{switched.files} files, {megabytes(switched.size)}"
    )


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
        *([f"  kept     {_some(sorted({_top(path) for path in restored.kept}))}"] if restored.kept else []),
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


def _some(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:10]) + (f" and {len(every) - 10} more" if len(every) > 10 else "")

"""Restore a version's files into a folder, so that an interruption leaves the old tree or the new one, never a mixture.

For a target `current`, all working files are next to it, in `.current.ulora/`. The steps; the process may be killed
after each of them:

1. lock `.current.ulora/lock`; complete or remove what a killed restore left (`RestoreTarget.recover`)
2. build the whole new tree in `next/`: the version's files are written, files that stay are hard-linked
3. hard-link the files that are replaced or removed into `stash/`
4. write `pending.json`, which says how to undo the restore, and flush the disk
5. swap the target and `next/`: the commit
6. copy what other processes changed in the old tree meanwhile into the new one, or into the stash if the path is taken
7. `pending.json` becomes `stash/<id>.json`; the old tree, now in `next/`, is removed

The new tree records the id of its restore. So `recover` knows whether step 5 was done: then it continues with step 6,
otherwise it removes `next/`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from registry.errors import NotFound
from registry.progress import Progress, no_progress
from registry.tree.file_system_errors import tree_errors
from registry.tree.layout import FetchFiles, open_fetched
from registry.tree.restore_checks import open_target
from registry.tree.restore_plan import TreeFile, chosen, in_scope, plan
from registry.tree.restore_target import (
    NEXT,
    OLD,
    PENDING,
    Applied,
    Swap,
    TreeChange,
    restored_files,
    work_folder,
)
from registry.tree.stash import RestoredFile, RestoredTree, Stash
from registry.versions.manifest import FileEntry


@dataclass(frozen=True)
class Restored:
    """What a restore did, or with `done` False would do (or found done already).

    Attributes:
        added, changed, removed: the files, with their modes.
        unchanged: how many files of the version were in place already.
        kept: paths in the target that the version does not have, and that were not touched.
        undo: the id with which it can be undone, None if nothing was done.
        late: files that another process changed during the restore: copied into the new tree, or into the stash where
            their path is used.
    """

    version: str
    target: Path
    done: bool
    added: tuple[TreeFile, ...] = ()
    changed: tuple[TreeFile, ...] = ()
    removed: tuple[TreeFile, ...] = ()
    unchanged: int = 0
    kept: tuple[str, ...] = ()
    undo: str | None = None
    stash: Path | None = None
    late: tuple[str, ...] = ()

    @property
    def edited(self) -> tuple[str, ...]:
        """The files with local edits that were, or would be, moved into the stash."""
        return tuple(file.path for file in (*self.changed, *self.removed) if file.edited)


@dataclass(frozen=True)
class RestoreRequest:
    """What to restore: a version's files, or only those that `only` names; `clean` removes all other files."""

    version: str
    files: tuple[FileEntry, ...]
    fetch: FetchFiles
    only: tuple[str, ...] = ()
    clean: bool = False


def restore(
    request: RestoreRequest,
    folder: Path,
    *,
    dry_run: bool = False,
    progress: Progress = no_progress,
    swap: Swap | None = None,
) -> Restored:
    """Make a folder hold a version's files. Other files stay, except those that an earlier restore wrote.

    Raises:
        UnsafePath: a link or a special file is in the way, or the folder must not be replaced.
        NotFound: `only` matches no file.
        NotNow: another restore is running there.
        BadInput: the file system refuses. The folder was not changed.
        DiskFull: no space is left. The folder was not changed.
        MissingBlob: a file of the version is not in the store; the folder was not changed.
        CorruptBlob: a file of the version is corrupt; the folder was not changed.
    """
    wanted, scope = chosen(request.files, request.only, request.version), in_scope(request.only)
    with tree_errors(folder), open_target(folder, dry_run=dry_run) as target:
        state = target.state()
        planned = plan(target.listing(), wanted, restored_files(state), scope, clean=request.clean)
        files = {path: file for path, file in (state.files if state else {}).items() if not scope(path)}
        for gone in planned.removed:
            files.pop(gone.path, None)
        files.update({file.path: RestoredFile(sha256=file.sha256, mode=file.mode) for file in wanted})
        version = request.version if not request.only else state.version if state else None
        change = TreeChange(f"restore {request.version}", planned, version, files)
        if dry_run or (planned.is_empty and _is_recorded(state, change)):
            return _restored(request.version, folder, change)
        missing = {file.path for file in (*planned.added, *planned.changed)}
        local = request.fetch([file for file in wanted if file.path in missing])
        applied = target.apply(change, lambda file: open_fetched(local[file.sha256]), progress, swap)
        return _restored(request.version, folder, change, applied)


def undo(
    entry_id: str,
    folder: Path,
    *,
    dry_run: bool = False,
    progress: Progress = no_progress,
    swap: Swap | None = None,
) -> Restored:
    """Put a folder back into its state before a restore, from the stash next to it. No server is needed.

    Files that were changed since then are moved into the stash, so the undo can be undone too.

    Raises:
        NotFound: there is no such restore, or its files were removed from the stash.
        UnsafePath: a link or a special file is in the way, or the folder must not be replaced.
        NotNow: another restore is running there.
        BadInput: the file system refuses. The folder was not changed.
        DiskFull: no space is left. The folder was not changed.
        CorruptBlob: a file in the stash was changed. The folder was not changed.
    """
    if not os.path.lexists(work_folder(folder)):  # checked before anything is created
        raise NotFound(f"nothing was ever restored into {folder}")
    with tree_errors(folder), open_target(folder, dry_run=dry_run) as target:
        stash = Stash(target.work)
        entry = stash.entry(entry_id)
        wanted = [TreeFile(kept.path, kept.size, kept.mode, kept.sha256) for kept in entry.kept]
        state = target.state()
        planned = plan(target.listing(), wanted, restored_files(state), set(entry.added).__contains__)
        before = entry.before
        links = {path: text for path, text in entry.links.items() if target.stat(path) is None}
        version, files = (before.version, before.files) if before else (None, {})
        change = TreeChange(f"undo {entry.doing}", planned, version, files, links)
        name = f"before {entry.doing}"
        if dry_run or (planned.is_empty and not links and _is_recorded(state, change)):
            return _restored(name, folder, change)
        return _restored(name, folder, change, target.apply(change, stash.open, progress, swap))


def recover(folder: Path) -> bool:
    """Complete or remove what a killed restore left next to a folder. False if there is nothing to do.

    Raises:
        NotNow: a restore is running there.
        UnsafePath: the folder must not be replaced.
        BadInput: the file system refuses.
        DiskFull: no space is left.
    """
    if not is_unfinished(folder):
        return False
    with tree_errors(folder), open_target(folder, dry_run=False):
        return True


def is_unfinished(folder: Path) -> bool:
    """Whether a restore of this folder was killed (or is running) and left something to complete or remove."""
    work = work_folder(folder)
    return any(os.path.lexists(work / name) for name in (NEXT, OLD, PENDING))


def _is_recorded(state: RestoredTree | None, change: TreeChange) -> bool:
    """Whether the tree already records what it would record after the change."""
    return state is not None and (state.version, dict(state.files)) == (change.version, dict(change.files))


def _restored(version: str, folder: Path, change: TreeChange, applied: Applied | None = None) -> Restored:
    planned = change.plan
    return Restored(
        version=version,
        target=folder,
        done=applied is not None,
        added=planned.added,
        changed=planned.changed,
        removed=planned.removed,
        unchanged=len(planned.unchanged),
        kept=planned.kept,
        undo=applied.id if applied else None,
        stash=applied.stash if applied else None,
        late=applied.late if applied else (),
    )

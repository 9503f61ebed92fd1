"""The folder that a restore replaces, and the folder next to it in which the new tree is built.

The steps are listed in `registry.tree.restore`.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from registry.errors import BadInput, BadManifest, UnsafePath
from registry.machine.safe_folder import SafeFolder, copy_owner_and_mode
from registry.progress import Progress
from registry.tree.layout import STATE_FOLDER
from registry.tree.restore_plan import TreeFile, TreeListing, TreePlan
from registry.tree.stash import RestoredFile, RestoredTree, Stash, StashedFile, StashEntry
from registry.versions.manifest import MAX_FILE

STATE = f"{STATE_FOLDER}/restored.json"
LOCK, NEXT, OLD, PENDING = "lock", "next", "old", "pending.json"
"""Names in the folder of working files."""

OpenFile = Callable[[TreeFile], BinaryIO]
"""Opens the new content of a file for reading."""


@dataclass(frozen=True)
class TreeChange:
    """A planned change of a tree.

    Attributes:
        doing: what it is, for people, e.g. `restore v1.0.0`.
        version, files: what the tree records afterwards, see `RestoredTree`.
        links: symbolic links to create, by path.
    """

    doing: str
    plan: TreePlan
    version: str | None
    files: Mapping[str, RestoredFile]
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Applied:
    """A change that was made: the id with which it is undone, the folder of its stash, and the files in `late`."""

    id: str
    stash: Path
    late: tuple[str, ...]


class RestoreTarget:
    """A folder to restore into, and the folder of working files next to it. `work` and `tree` may not exist yet."""

    def __init__(
        self, target: Path, parent: SafeFolder | None, work: SafeFolder | None, tree: SafeFolder | None
    ) -> None:
        self.target = target
        self._parent = parent
        self._work = work
        self._tree = tree

    @property
    def parent(self) -> SafeFolder:
        """The folder that contains the target."""
        assert self._parent is not None  # noqa: S101
        return self._parent

    @property
    def work(self) -> SafeFolder:
        """The folder of working files next to the target."""
        assert self._work is not None  # noqa: S101
        return self._work

    def stat(self, path: str) -> os.stat_result | None:
        """The status of a path in the target; None if nothing is there."""
        return self._tree.stat(path) if self._tree else None

    def state(self) -> RestoredTree | None:
        """What was restored into the target before; None if that is not recorded or the record is damaged."""
        return _state_of(self._tree) if self._tree else None

    def listing(self) -> TreeListing:
        """All files and folders of the target.

        Raises:
            BadInput: a part of it is on another file system.
        """
        tree = self._tree
        if tree is None:
            return TreeListing(self.target, {}, lambda path, at_most: None, str)
        entries = {path: info for path, info in tree.walk() if path != STATE}
        device = os.fstat(tree.fd).st_dev
        for path, info in entries.items():
            if info.st_dev != device:
                raise BadInput(
                    f"{self.target / path} is on another file system, so {self.target} can't be replaced as a whole",
                    hint="mount it elsewhere, or restore into another folder",
                )
        return TreeListing(self.target, entries, tree.digest, tree.read_link)

    def apply(
        self, change: TreeChange, open_file: OpenFile, progress: Progress, swap: Swap | None = None
    ) -> Applied | None:
        """Make a planned change, in the steps of `registry.tree.restore`. None if only the record had to be written.

        Raises:
            UnsafePath: another process changed a file meanwhile.
            BadInput: a file belongs to another user.
            CorruptBlob: the new content of a file is not what it should be.
            OSError: the file system refuses.
        """
        now = datetime.now(UTC)
        restore_id = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
        when = now.isoformat(timespec="microseconds")
        state = RestoredTree(format=1, id=restore_id, version=change.version, when=when, files=dict(change.files))
        if change.plan.is_empty and not change.links and self._tree is not None:
            self._tree.write(STATE, state.to_bytes())
            return None
        late: tuple[str, ...] = ()
        try:
            self._build(change, state, open_file, progress)
            self._stash_replaced(change, state)
            self.work.sync()
            (swap or swap_atomically)(self)
        finally:
            late = self.recover()
        return Applied(restore_id, self.work.path / "stash", late)

    def recover(self) -> tuple[str, ...]:
        """Complete or remove an interrupted restore; return the files that other processes changed meanwhile."""
        self._finish_swap_in_two_steps()
        stash = Stash(self.work)
        entry, target = stash.pending(PENDING), self.parent.stat(self.target.name)
        late: tuple[str, ...] = ()
        if entry and target and stat.S_ISDIR(target.st_mode):
            with self.parent.folder(self.target.name) as tree:
                state = _state_of(tree)
                if state and state.id == entry.id:
                    late = self._save_late_changes(entry, tree, stash)
                    stash.add(PENDING)
        for name in (PENDING, f"{PENDING}.new", NEXT):
            self.work.remove(name)
        stash.remove_unneeded()
        return late

    # --- the steps ---------------------------------------------------------------------------------------------------

    def _build(self, change: TreeChange, state: RestoredTree, open_file: OpenFile, progress: Progress) -> None:
        planned = change.plan
        with self.work.folder(NEXT, make=True) as tree:
            for path in planned.folders:
                with tree.folder(path, make=True):
                    pass
            for path in planned.kept:
                self._keep(path, tree)
            for file in planned.unchanged:
                self._keep_checked(file, tree)
            for file in (*planned.added, *planned.changed):
                with open_file(file) as content:
                    tree.write_verified(file, content, progress)
            for path, text in change.links.items():
                tree.symlink(text, path)
            tree.remove(STATE)
            tree.write(STATE, state.to_bytes())
            for path, info in reversed(tuple(planned.folders.items())):
                with tree.folder(path) as folder:
                    copy_owner_and_mode(folder.fd, info, self.target / path)
            if self._tree:
                copy_owner_and_mode(tree.fd, os.fstat(self._tree.fd), self.target)

    def _keep(self, path: str, tree: SafeFolder) -> None:
        assert self._tree is not None  # noqa: S101
        with suppress(FileNotFoundError):  # another process removed it meanwhile
            self._tree.link(path, tree, path)

    def _keep_checked(self, file: TreeFile, tree: SafeFolder) -> None:
        """Keep a file that equals the version's, and check again that it does: it may have changed since the plan."""
        self._keep(file.path, tree)
        info = tree.stat(file.path)
        if info is None or not stat.S_ISREG(info.st_mode) or tree.digest(file.path, file.size) != file.sha256:
            raise UnsafePath(
                f"another process changed {self.target / file.path} during the restore; nothing was changed",
                hint="run it again when no other process writes there",
            )

    def _stash_replaced(self, change: TreeChange, state: RestoredTree) -> None:
        assert self._tree is not None or not (change.plan.replaced or change.plan.removed)  # noqa: S101
        stash = Stash(self.work)
        files = (*change.plan.replaced, *change.plan.removed)
        kept = tuple(stash.keep(self._tree, file) for file in files) if self._tree else ()
        entry = StashEntry(
            format=1, id=state.id, when=state.when, doing=change.doing, kept=kept, links=dict(change.plan.links),
            added=(*(file.path for file in change.plan.added), *change.links), before=self.state(),
        )  # fmt: skip
        self.work.write(PENDING, entry.to_bytes())

    def _save_late_changes(self, entry: StashEntry, tree: SafeFolder, stash: Stash) -> tuple[str, ...]:
        """Save files that other processes wrote into the old tree meanwhile, in the new tree or the stash."""
        info = self.work.stat(NEXT)
        if info is None or not stat.S_ISDIR(info.st_mode):
            return ()
        kept = {file.path: file for file in entry.kept}
        late = []
        with self.work.folder(NEXT) as old:
            for path, found in old.walk():
                if stat.S_ISDIR(found.st_mode) or path == STATE or _is_same(found, tree.stat(path)):
                    continue
                if stat.S_ISLNK(found.st_mode) and entry.links.get(path) == old.read_link(path):
                    continue
                is_file = stat.S_ISREG(found.st_mode)
                digest = old.digest(path, MAX_FILE) if is_file else None
                if digest and (_is_kept(kept.get(path), digest) or _holds(tree, path, digest, found.st_size)):
                    continue
                late.append(path)
                if (path in kept or not _move_late_change(old, path, tree)) and is_file:
                    kept[path] = stash.keep(old, TreeFile(path, found.st_size, "0644", edited=True))
        if late:
            changed = entry.model_copy(update={"kept": tuple(kept.values())})
            self.work.write(PENDING, changed.to_bytes())
        return tuple(late)

    def _finish_swap_in_two_steps(self) -> None:
        """Complete an interrupted `swap_in_two_steps`."""
        if self.work.stat(OLD) is None:
            return
        name = self.target.name
        if self.parent.stat(name) is None:
            source = NEXT if self.work.stat(NEXT) is not None else OLD
            self.work.rename(source, self.parent, name)
        if self.work.stat(OLD) is not None and self.work.stat(NEXT) is None:
            self.work.rename(OLD, self.work, NEXT)
        self.work.remove(OLD)


Swap = Callable[[RestoreTarget], None]
"""Replaces the target with `next`."""


def swap_atomically(target: RestoreTarget) -> None:
    """Swap the target and `next` atomically; in two steps where the operating or file system does not support it."""
    name = target.target.name
    if target.parent.stat(name) is None:
        target.work.rename(NEXT, target.parent, name)
    elif not target.parent.exchange(name, target.work, NEXT):
        swap_in_two_steps(target)


def swap_in_two_steps(target: RestoreTarget) -> None:
    """Move the target away and `next` into its place. If killed in between, there is no target until `recover` runs."""
    name = target.target.name
    if target.parent.stat(name) is not None:
        target.parent.rename(name, target.work, OLD)
    target.work.rename(NEXT, target.parent, name)
    if target.work.stat(OLD) is not None:
        target.work.rename(OLD, target.work, NEXT)


def _state_of(tree: SafeFolder) -> RestoredTree | None:
    data = tree.read(STATE, RestoredTree.LIMIT)
    try:
        return RestoredTree.parse(data, STATE) if data is not None else None
    except BadManifest:
        return None


def work_folder(target: Path) -> Path:
    """The folder of working files next to a target."""
    return target.parent / f".{target.name}.ulora"


def restored_files(state: RestoredTree | None) -> dict[str, tuple[str, str]]:
    """Digest and mode of the files that earlier restores wrote, by path."""
    return {path: (file.sha256, file.mode) for path, file in state.files.items()} if state else {}


def _is_same(info: os.stat_result, other: os.stat_result | None) -> bool:
    return other is not None and os.path.samestat(info, other)


def _is_kept(kept: StashedFile | None, digest: str) -> bool:
    return kept is not None and kept.sha256 == digest


def _holds(tree: SafeFolder, path: str, digest: str, size: int) -> bool:
    info = tree.stat(path)
    return info is not None and stat.S_ISREG(info.st_mode) and tree.digest(path, size) == digest


def _move_late_change(old: SafeFolder, path: str, tree: SafeFolder) -> bool:
    """Link a path of the old tree into the new one; False if the path is used there."""
    try:
        old.link(path, tree, path)
    except (FileExistsError, NotADirectoryError, UnsafePath):
        return False
    except BadInput:  # of another user: a rename keeps the owner
        old.rename(path, tree, path)
    return True

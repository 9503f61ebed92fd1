"""Put a version's files into a folder, so that whatever interrupts it leaves the old tree or the new one.

For a target `current`, everything else lies beside it in `.current.ulora/`. The steps, each safe to die after:

1. lock `.current.ulora/lock`; finish or clear away what a killed restore left (`RestoreTarget.recover`)
2. build the whole new tree in `next/`: the version's files are written, what is kept is linked
3. link what is replaced or removed into `stash/`
4. write `pending.json`, which says how to undo it, and let the disk settle
5. swap the target and `next/`: the commit
6. what changed in the old tree meanwhile goes into the new one, or into the stash where its place is taken
7. `pending.json` becomes `stash/<id>.json`; the old tree, now in `next/`, is removed

The new tree remembers its restore's id. So `recover` knows whether step 5 was reached: then it goes on with step 6,
else it removes `next/`.
"""

from __future__ import annotations

import os
import secrets
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from registry.errors import BadInput, BadManifest, NotFound, UnsafePath
from registry.progress import Progress, no_progress
from registry.tree.folders import Folder, take_after, tree_errors
from registry.tree.plan import STATE_FOLDER, TreeFile, TreeListing, TreePlan, chosen, in_scope, plan
from registry.tree.stash import Entry, Kept, Mark, Stash, State
from registry.versions.manifest import FileEntry

STATE = f"{STATE_FOLDER}/restored.json"
_LOCK, _NEXT, _OLD, _PENDING = "lock", "next", "old", "pending.json"

Fetch = Callable[[Sequence[FileEntry]], Mapping[str, Path]]
"""Gives local files by digest."""
Source = Callable[[TreeFile], BinaryIO]


@dataclass(frozen=True)
class Restored:
    """What a restore did, or with `done` False would do (or found done already).

    Attributes:
        added, changed, removed: the files, with their modes.
        unchanged: how many files of the version were there already.
        kept: what lies in the target and is not the version's: left alone.
        undo: the id by which it is undone, None where nothing was done.
        late: files that somebody changed while it ran: carried over, or in the stash where their place was taken.
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
        """The local edits that went, or would go, into the stash."""
        return tuple(file.path for file in (*self.changed, *self.removed) if file.edited)


@dataclass(frozen=True)
class Order:
    """What to restore: a version's files, or those that `only` names; with `clean`, the target loses all others."""

    version: str
    files: tuple[FileEntry, ...]
    fetch: Fetch
    only: tuple[str, ...] = ()
    clean: bool = False


def restore(
    order: Order,
    target: Path,
    *,
    dry_run: bool = False,
    progress: Progress = no_progress,
    swap: Swap | None = None,
) -> Restored:
    """Make `target` hold a version's files. What the version does not have stays, but for what a restore put there.

    Raises:
        UnsafePath: a link or the like is in the way, or this must not be a target.
        NotFound: `only` names nothing.
        NotNow: another restore is at work there.
        BadInput, DiskFull: the file system refuses. The target is as it was.
        MissingBlob, CorruptBlob: the version is not whole; the target is as it was.
    """
    wanted, scope = chosen(order.files, order.only, order.version), in_scope(order.only)
    with tree_errors(target), _opened(target, dry_run=dry_run) as place:
        state = place.state()
        mine = _marks(state)
        seen = place.seen()
        planned = plan(seen, wanted, mine, scope, clean=order.clean)
        files = {path: mark for path, mark in (state.files if state else {}).items() if not scope(path)}
        for gone in planned.removed:
            files.pop(gone.path, None)
        files.update({file.path: Mark(sha256=file.sha256, mode=file.mode) for file in wanted})
        version = order.version if not order.only else state.version if state else None
        change = _Change(f"restore {order.version}", planned, version, files)
        if dry_run or (planned.is_empty and _same(state, change)):
            return _answer(order.version, place, change, done=False)
        missing = {file.path for file in (*planned.added, *planned.changed)}
        local = order.fetch([file for file in wanted if file.path in missing])
        return place.carry_out(change, lambda file: local[file.sha256].open("rb"), order.version, progress, swap)


def undo(
    entry_id: str,
    target: Path,
    *,
    dry_run: bool = False,
    progress: Progress = no_progress,
    swap: Swap | None = None,
) -> Restored:
    """Put a target back to what it was before a restore, from the stash beside it. No server is asked.

    What was changed since goes into the stash in turn, so that this can be undone too.

    Raises:
        NotFound: there is no such restore, or its files were removed from the stash.
        As `restore`.
    """
    if not os.path.lexists(_work(target)):  # looked for before anything is made
        raise NotFound(f"nothing was ever restored into {target}")
    with tree_errors(target), _opened(target, dry_run=dry_run) as place:
        entry = Stash(place.work).entry(entry_id)
        wanted = [TreeFile(kept.path, kept.size, kept.mode, kept.sha256) for kept in entry.kept]
        state = place.state()
        planned = plan(place.seen(), wanted, _marks(state), set(entry.added).__contains__)
        before = entry.before
        links = {path: text for path, text in entry.links.items() if place.look(path) is None}
        change = _Change(
            f"undo {entry.doing}", planned, before.version if before else None, before.files if before else {}, links
        )
        doing = f"before {entry.doing}"
        if dry_run or (planned.is_empty and not links and _same(state, change)):
            return _answer(doing, place, change, done=False)
        return place.carry_out(change, Stash(place.work).open, doing, progress, swap)


def recover(target: Path) -> bool:
    """Finish, or clear away, what a killed restore left beside a target. False where there is nothing to do.

    Raises:
        NotNow: a restore is at work there.
        UnsafePath, BadInput: as `restore`.
    """
    if not is_unfinished(target):
        return False
    with tree_errors(target), _opened(target, dry_run=False):
        return True


def is_unfinished(target: Path) -> bool:
    """Whether a restore of this target was killed (or is at work) and left something to finish or clear away."""
    work = _work(target)
    return any(os.path.lexists(work / name) for name in (_NEXT, _OLD, _PENDING))


@dataclass(frozen=True)
class _Change:
    """What is to be done to a tree, and what it is to remember; `links` are to be made."""

    doing: str
    plan: TreePlan
    version: str | None
    files: Mapping[str, Mark]
    links: Mapping[str, str] = field(default_factory=dict)


class RestoreTarget:
    """A target, and the folder beside it that holds what a restore needs. `work` and `tree` may be missing."""

    def __init__(self, target: Path, parent: Folder | None, work: Folder | None, tree: Folder | None) -> None:
        self.target = target
        self._parent = parent
        self._work = work
        self._tree = tree

    @property
    def parent(self) -> Folder:
        """The folder that the target lies in."""
        assert self._parent is not None  # noqa: S101
        return self._parent

    @property
    def work(self) -> Folder:
        """The folder beside the target."""
        assert self._work is not None  # noqa: S101
        return self._work

    def look(self, path: str) -> os.stat_result | None:
        """What lies at a path of the target."""
        return self._tree.look(path) if self._tree else None

    def state(self) -> State | None:
        """What the target remembers; None where that is nothing, or damaged: then nothing in it counts as restored."""
        return _state_of(self._tree) if self._tree else None

    def seen(self) -> TreeListing:
        """What lies in the target."""
        tree = self._tree
        if tree is None:
            return TreeListing(self.target, {}, str, str)
        entries = {path: info for path, info in tree.walk() if path != STATE}
        device = os.fstat(tree.fd).st_dev
        for path, info in entries.items():
            if info.st_dev != device:
                raise BadInput(
                    f"{self.target / path} is on another file system, so {self.target} can't be swapped as a whole",
                    hint="mount it elsewhere, or restore into a folder beside it",
                )
        return TreeListing(self.target, entries, tree.digest, tree.link_text)

    def carry_out(
        self, change: _Change, source: Source, version: str, progress: Progress, swap: Swap | None
    ) -> Restored:
        """Do what was planned, in the steps that the module's docstring names."""
        now = datetime.now(UTC)
        restore_id = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
        when = now.isoformat(timespec="microseconds")
        state = State(format=1, id=restore_id, version=change.version, when=when, files=dict(change.files))
        if change.plan.is_empty and not change.links and self._tree is not None:
            self._tree.write(STATE, state.to_bytes())
            return _answer(version, self, change, done=False)
        late: tuple[str, ...] = ()
        try:
            self._build(change, state, source, progress)
            self._put_aside(change, state)
            self.work.settle()
            (swap or at_once)(self)
        finally:
            late = self.recover()
        return replace(
            _answer(version, self, change, done=True), undo=restore_id, stash=self.work.path / "stash", late=late
        )

    def recover(self) -> tuple[str, ...]:
        """Bring what a restore began to its end, or clear it away; files that came late are named."""
        self._finish_two_steps()
        stash = Stash(self.work)
        entry, target = stash.pending(_PENDING), self.parent.look(self.target.name)
        late: tuple[str, ...] = ()
        if entry and target and stat.S_ISDIR(target.st_mode):
            with self.parent.folder(self.target.name) as tree:
                state = _state_of(tree)
                if state and state.id == entry.id:
                    late = self._account(entry, tree, stash)
                    stash.add(_PENDING)
        for name in (_PENDING, f"{_PENDING}.new", _NEXT):
            self.work.remove(name)
        stash.sweep()
        return late

    # --- the steps ---------------------------------------------------------------------------------------------------

    def _build(self, change: _Change, state: State, source: Source, progress: Progress) -> None:
        planned = change.plan
        with self.work.folder(_NEXT, make=True) as tree:
            for path in planned.folders:
                with tree.folder(path, make=True):
                    pass
            for path in planned.kept:
                self._keep(path, tree)
            for file in planned.unchanged:
                self._keep_checked(file, tree)
            for file in (*planned.added, *planned.changed):
                with source(file) as lying:
                    tree.fill(file, lying, progress)
            for path, text in change.links.items():
                tree.symlink(text, path)
            tree.remove(STATE)
            tree.write(STATE, state.to_bytes())
            for path, info in reversed(tuple(planned.folders.items())):
                with tree.folder(path) as folder:
                    take_after(folder.fd, info, self.target / path)
            if self._tree:
                take_after(tree.fd, os.fstat(self._tree.fd), self.target)

    def _keep(self, path: str, tree: Folder) -> None:
        assert self._tree is not None  # noqa: S101
        with suppress(FileNotFoundError):  # somebody removed it meanwhile
            self._tree.link(path, tree, path)

    def _keep_checked(self, file: TreeFile, tree: Folder) -> None:
        """Keep a file that is the version's already; it must still be, now that nobody else can change its name."""
        self._keep(file.path, tree)
        info = tree.look(file.path)
        if info is None or not stat.S_ISREG(info.st_mode) or tree.digest(file.path) != file.sha256:
            raise UnsafePath(
                f"{self.target / file.path} was changed while it was restored; nothing was done",
                hint="run it again when nobody else is writing there",
            )

    def _put_aside(self, change: _Change, state: State) -> None:
        assert self._tree is not None or not (change.plan.replaced or change.plan.removed)  # noqa: S101
        stash = Stash(self.work)
        files = (*change.plan.replaced, *change.plan.removed)
        kept = tuple(stash.keep(self._tree, file) for file in files) if self._tree else ()
        entry = Entry(
            format=1, id=state.id, when=state.when, doing=change.doing, kept=kept, links=dict(change.plan.links),
            added=(*(file.path for file in change.plan.added), *change.links), before=self.state(),
        )  # fmt: skip
        self.work.write(_PENDING, entry.to_bytes())

    def _account(self, entry: Entry, tree: Folder, stash: Stash) -> tuple[str, ...]:
        """See that every file of the old tree is in the new one or in the stash; those that are not came late."""
        info = self.work.look(_NEXT)
        if info is None or not stat.S_ISDIR(info.st_mode):
            return ()
        kept = {file.path: file for file in entry.kept}
        late = []
        with self.work.folder(_NEXT) as old:
            for path, found in old.walk():
                if stat.S_ISDIR(found.st_mode) or path == STATE or _is_same(found, tree.look(path)):
                    continue
                if stat.S_ISLNK(found.st_mode) and entry.links.get(path) == old.link_text(path):
                    continue
                digest = old.digest(path) if stat.S_ISREG(found.st_mode) else ""
                if digest and (_is_kept(kept.get(path), digest) or _holds(tree, path, digest)):
                    continue
                late.append(path)
                if (path in kept or not _carry(old, path, tree)) and digest:
                    kept[path] = stash.keep(old, TreeFile(path, found.st_size, "0644", digest, edited=True))
        if late:
            changed = entry.model_copy(update={"kept": tuple(kept.values())})
            self.work.write(_PENDING, changed.to_bytes())
        return tuple(late)

    def _finish_two_steps(self) -> None:
        """Where a swap is two renames, finish the second; see `in_two_steps`."""
        if self.work.look(_OLD) is None:
            return
        name = self.target.name
        if self.parent.look(name) is None:
            there = _NEXT if self.work.look(_NEXT) is not None else _OLD
            self.work.rename(there, self.parent, name)
        if self.work.look(_OLD) is not None and self.work.look(_NEXT) is None:
            self.work.rename(_OLD, self.work, _NEXT)
        self.work.remove(_OLD)


Swap = Callable[[RestoreTarget], None]
"""Puts `next` in the target's place."""


def at_once(place: RestoreTarget) -> None:
    """Swap the target and `next` at one instant; in two steps where the system or the file system can't."""
    name = place.target.name
    if place.parent.look(name) is None:
        place.work.rename(_NEXT, place.parent, name)
    elif not place.parent.exchange(name, place.work, _NEXT):
        in_two_steps(place)


def in_two_steps(place: RestoreTarget) -> None:
    """Move the target away and `next` there. Killed in between, there is no target until `recover` finishes it."""
    name = place.target.name
    if place.parent.look(name) is not None:
        place.parent.rename(name, place.work, _OLD)
    place.work.rename(_NEXT, place.parent, name)
    if place.work.look(_OLD) is not None:
        place.work.rename(_OLD, place.work, _NEXT)


# --- opening a place -------------------------------------------------------------------------------------------------


@contextmanager
def _opened(target: Path, *, dry_run: bool) -> Iterator[RestoreTarget]:
    """A target, locked and with nothing left over in it; for a dry run only what lies there."""
    _check_name(target)
    with ExitStack() as stack:
        try:
            parent = stack.enter_context(Folder.at(target.parent, make=not dry_run))
        except FileNotFoundError:
            yield RestoreTarget(target, None, None, None)
            return
        _check_target(parent, target)
        work = _open_work(parent, target, make=not dry_run)
        if work:
            stack.enter_context(work)
        if work and not dry_run:
            stack.enter_context(work.locked(_LOCK))
            RestoreTarget(target, parent, work, None).recover()
        tree = stack.enter_context(parent.folder(target.name)) if _check_target(parent, target) else None
        yield RestoreTarget(target, parent, work, tree)


def _open_work(parent: Folder, target: Path, *, make: bool) -> Folder | None:
    name = _work(target).name
    if parent.look(name) is None and not make:
        return None
    work = parent.folder(name, make=make)
    owners = {os.geteuid(), 0, os.fstat(parent.fd).st_uid}
    if os.fstat(work.fd).st_uid not in owners:
        os.close(work.fd)
        raise UnsafePath(f"{work.path} belongs to somebody else", hint="remove it, or choose another target")
    return work


def _work(target: Path) -> Path:
    return target.parent / f".{target.name}.ulora"


def _check_name(target: Path) -> None:
    """Refuse what can't be swapped as a whole, by its name."""
    if target.name in ("", "..") or target == Path():
        raise UnsafePath(
            f"{target} can't be a target: it is replaced as a whole", hint="name a folder of its own: --target current"
        )
    if any(part.casefold() == ".git" for part in target.parts):
        raise UnsafePath(f"{target} lies in git's own folder", hint="choose another target")


def _check_target(parent: Folder, target: Path) -> bool:
    """Whether the target exists.

    Raises:
        UnsafePath: it is a link, or a folder that must not be replaced.
        BadInput: it is a file, or this process is inside it.
    """
    info = parent.look(target.name)
    if info is None:
        return False
    if stat.S_ISLNK(info.st_mode):
        raise UnsafePath(
            f"{target} is a link; it was left alone",
            hint=f"a link `current` is moved by `ulora switch VERSION --root {shlex.quote(str(target.parent))}`; "
            "or name the real folder",
        )
    if not stat.S_ISDIR(info.st_mode):
        raise BadInput(f"{target} is no folder", hint="choose another --target, or move it away")
    if _is_above(info, _home()):
        raise UnsafePath(f"{target} is, or holds, your home folder", hint="name a folder of its own: --target current")
    if _is_above(info, Path.cwd()):
        raise BadInput(
            f"you are inside {target}, which is replaced as a whole", hint="go out of it first, for example: cd .."
        )
    return True


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None


def _is_above(info: os.stat_result, place: Path | None) -> bool:
    """Whether a folder is another or holds it."""
    for each in (place, *place.parents) if place else ():
        with suppress(OSError):
            if os.path.samestat(info, each.stat()):
                return True
    return False


# --- parts -----------------------------------------------------------------------------------------------------------


def _state_of(tree: Folder) -> State | None:
    data = tree.read(STATE, State.LIMIT)
    try:
        return State.parse(data, STATE) if data is not None else None
    except BadManifest:
        return None


def _marks(state: State | None) -> dict[str, tuple[str, str]]:
    return {path: (mark.sha256, mark.mode) for path, mark in state.files.items()} if state else {}


def _same(state: State | None, change: _Change) -> bool:
    return state is not None and (state.version, dict(state.files)) == (change.version, dict(change.files))


def _is_same(info: os.stat_result, other: os.stat_result | None) -> bool:
    return other is not None and os.path.samestat(info, other)


def _is_kept(kept: Kept | None, digest: str) -> bool:
    return kept is not None and kept.sha256 == digest


def _holds(tree: Folder, path: str, digest: str) -> bool:
    info = tree.look(path)
    return info is not None and stat.S_ISREG(info.st_mode) and tree.digest(path) == digest


def _carry(old: Folder, path: str, tree: Folder) -> bool:
    """Take something that came late over into the new tree; False if its place is taken."""
    try:
        old.link(path, tree, path)
    except (FileExistsError, NotADirectoryError, UnsafePath):
        return False
    except BadInput:  # somebody else's: moved, it stays theirs
        old.rename(path, tree, path)
    return True


def _answer(version: str, place: RestoreTarget, change: _Change, *, done: bool) -> Restored:
    planned = change.plan
    return Restored(
        version=version,
        target=place.target,
        done=done,
        added=planned.added,
        changed=planned.changed,
        removed=planned.removed,
        unchanged=len(planned.unchanged),
        kept=planned.kept,
    )

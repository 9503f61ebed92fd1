"""Plan a restore: which files of a tree are added, changed, removed or kept. Nothing is written here."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from registry.errors import BadInput, NotFound, UnsafePath
from registry.formats import canonical
from registry.machine.safe_folder import FileDescription
from registry.tree.layout import mode_of
from registry.versions.manifest import MAX_FILE, FileEntry

_NEVER_CLEANED = (".git", ".hg", ".svn")
_MOVE = "move it away; nothing was changed"

FileStates = Mapping[str, tuple[str, str]]
"""Digest and mode of files, by path."""


@dataclass(frozen=True)
class TreeFile:
    """A file of a tree.

    Attributes:
        mode: `0644` or `0755`; `was` is the mode of the file that it replaces.
        edited: the file in the tree is not what a restore wrote: a local edit, which is moved into the stash.
    """

    path: str
    size: int
    mode: str
    sha256: str = ""
    was: str = ""
    edited: bool = False


@dataclass(frozen=True)
class TreePlan:
    """What a restore does with every file of a tree.

    Attributes:
        added, changed: the files to write, as they will be.
        removed: the files to remove, as they are; `links` are the symbolic links to remove, with their targets.
        replaced: the files that `changed` replaces, as they are.
        unchanged: files of the version that are in place already.
        kept: paths that the version does not have and that are not touched.
        folders: the folders of the tree that stay.
    """

    added: tuple[TreeFile, ...]
    changed: tuple[TreeFile, ...]
    removed: tuple[TreeFile, ...]
    replaced: tuple[TreeFile, ...]
    unchanged: tuple[TreeFile, ...]
    kept: tuple[str, ...]
    links: Mapping[str, str]
    folders: Mapping[str, os.stat_result]

    @property
    def is_empty(self) -> bool:
        """Whether nothing has to be changed."""
        return not (self.added or self.changed or self.removed or self.links)


def in_scope(only: Iterable[str]) -> Callable[[str], bool]:
    """A test whether a path is one of `only` or below one of them; every path is, if `only` is empty."""
    wanted = [_bare(each) for each in only]
    return lambda path: not wanted or any(path == each or path.startswith(f"{each}/") for each in wanted)


def _bare(path: str) -> str:
    return path.strip().removeprefix("./").rstrip("/")


def chosen(files: Iterable[FileEntry], only: tuple[str, ...], version: str) -> tuple[FileEntry, ...]:
    """The files that `only` names: each a file, or a folder of them.

    Raises:
        BadInput: one is empty.
        NotFound: one matches no file; the hint lists what can be named.
    """
    every = tuple(files)
    for each in only:
        if not _bare(each):
            raise BadInput(f"--only {each!r} names no file or folder", hint="leave --only out to restore everything")
        if not any(map(in_scope([each]), (file.path for file in every))):
            known = sorted({_name_for_only(file.path) for file in every})
            more = f" and {len(known) - 12} more" if len(known) > 12 else ""
            raise NotFound(f"{version} has no file or folder {each}", hint=f"it has: {', '.join(known[:12])}{more}")
    return tuple(file for file in every if in_scope(only)(file.path))


@dataclass(frozen=True)
class TreeListing:
    """The content of a tree by path, and functions that give a file's sha256 (see `SafeFolder.digest`) and a link's
    target."""

    tree: Path
    entries: Mapping[str, os.stat_result]
    digest: Callable[[str, int], str | None]
    read_link: Callable[[str], str]


def plan(
    listing: TreeListing,
    wanted: Iterable[FileDescription],
    restored: FileStates,
    removable: Callable[[str], bool],
    *,
    clean: bool = False,
) -> TreePlan:
    """Decide what a restore does with every path of a tree.

    Args:
        wanted: the files that the tree will have.
        restored: the files that earlier restores wrote.
        removable: which of `restored` may be removed if the version lacks them; with `clean`, which of all files.

    Raises:
        UnsafePath: a link or a special file is at the path of a file, or at a parent folder of it.
        BadInput: a path to remove has a name that is not valid Unicode, or a file is too large to be kept.
    """
    planning = _Planning(listing, {file.path: file for file in wanted}, restored)
    for path, info in listing.entries.items():
        if not stat.S_ISDIR(info.st_mode):
            remove = removable(path) and _may_remove(path, info.st_mode, restored, clean)
            planning.decide(path, info, remove=remove)
    return planning.plan()


class _Planning:
    """Collects the decisions of one plan."""

    def __init__(self, listing: TreeListing, files: Mapping[str, FileDescription], restored: FileStates) -> None:
        self._listing, self._files, self._restored = listing, files, restored
        self._parents = {parent for path in files for parent in _parents(path)}
        self._changed: list[TreeFile] = []
        self._replaced: list[TreeFile] = []
        self._removed: list[TreeFile] = []
        self._unchanged: list[TreeFile] = []
        self._kept: list[str] = []
        self._links: dict[str, str] = {}

    def decide(self, path: str, info: os.stat_result, *, remove: bool) -> None:
        """Decide for a path that is not a folder; `remove` says what to do if the version does not have it."""
        if path in self._files:
            self._compare(path, info)
        elif path in self._parents:
            self._check_is_file(path, info)
            self._remove(path, info)
        elif remove or any(parent in self._files for parent in _parents(path)):
            self._remove(path, info)
        else:
            self._kept.append(path)

    def plan(self) -> TreePlan:
        """The decisions so far, as a plan."""
        existing = {file.path for file in (*self._unchanged, *self._changed)}
        added = (_as_tree_file(file) for path, file in self._files.items() if path not in existing)
        return TreePlan(
            added=tuple(added),
            changed=tuple(self._changed),
            removed=tuple(self._removed),
            replaced=tuple(self._replaced),
            unchanged=tuple(self._unchanged),
            kept=tuple(self._kept),
            links=self._links,
            folders=self._kept_folders(),
        )

    def _compare(self, path: str, info: os.stat_result) -> None:
        self._check_is_file(path, info)
        now, then = self._existing(path, info), self._files[path]
        if (now.sha256, now.mode) == (then.sha256, then.mode):
            self._unchanged.append(now)
        else:
            self._changed.append(replace(_as_tree_file(then), was=now.mode, edited=now.edited))
            self._replaced.append(now)

    def _remove(self, path: str, info: os.stat_result) -> None:
        if not canonical.is_text(path):
            raise BadInput(f"{self._listing.tree}/{path!a} is in the way and not valid Unicode", hint=_MOVE)
        if stat.S_ISLNK(info.st_mode):
            self._links[path] = self._listing.read_link(path)
        else:
            self._check_is_file(path, info)
            self._removed.append(self._existing(path, info))

    def _existing(self, path: str, info: os.stat_result) -> TreeFile:
        """A file that the version's may replace, or that is removed: then it goes into the stash, under its digest."""
        mode, digest = mode_of(info), self._listing.digest(path, MAX_FILE)
        if digest is None:
            raise BadInput(f"{self._listing.tree / path} has more than {MAX_FILE} bytes: too large to keep", hint=_MOVE)
        return TreeFile(path, info.st_size, mode, digest, edited=self._restored.get(path) != (digest, mode))

    def _check_is_file(self, path: str, info: os.stat_result) -> None:
        if not stat.S_ISREG(info.st_mode):
            what = "a symbolic link" if stat.S_ISLNK(info.st_mode) else "neither a file nor a folder"
            raise UnsafePath(f"{self._listing.tree / path} is {what}, but the version needs this path", hint=_MOVE)

    def _kept_folders(self) -> dict[str, os.stat_result]:
        """All folders except those that become empty and those that a file replaces."""
        removed = (*(file.path for file in self._removed), *self._links)
        used = {parent for path in (*self._kept, *self._files) for parent in _parents(path)}
        emptied = {parent for path in removed for parent in _parents(path)}

        def is_kept(path: str) -> bool:
            is_replaced = any(each in self._files for each in (path, *_parents(path)))
            return not is_replaced and (path in used or path not in emptied)

        entries = self._listing.entries.items()
        return {path: info for path, info in entries if stat.S_ISDIR(info.st_mode) and is_kept(path)}


def _as_tree_file(file: FileDescription) -> TreeFile:
    return TreeFile(file.path, file.size, file.mode, file.sha256)


def _may_remove(path: str, mode: int, restored: FileStates, clean: bool) -> bool:
    """Whether a file may be removed: one that a restore wrote; with `clean` any file outside of `.git` and the like."""
    if clean and (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        return not any(part in _NEVER_CLEANED for part in path.split("/"))
    return path in restored and stat.S_ISREG(mode)


def _parents(path: str) -> list[str]:
    """The parent folders of a path."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _name_for_only(path: str) -> str:
    """What `--only` can name to select a path: a component, a folder, or a file at the top."""
    parts = path.split("/")
    if len(parts) == 1:
        return path
    return "/".join(parts[:2] if parts[0] == "adapters" and len(parts) > 2 else parts[:1]) + "/"

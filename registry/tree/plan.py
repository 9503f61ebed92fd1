"""What a restore would do to a tree: which files are added, changed, removed, kept. Nothing is written here."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from registry.errors import BadInput, NotFound, UnsafePath
from registry.formats import canonical
from registry.tree.folders import Described
from registry.versions.manifest import FileEntry, Manifest

FILES_FLAVOR = "files"
"""The flavor of snapshots: versions of files only, all of them in the component `project`."""
PROJECT = "project/"
STATE_FOLDER = ".ulora"
"""Where a restored tree remembers what was restored into it."""
_NEVER_CLEANED = (".git", ".hg", ".svn")
_MOVE = "move it away; nothing was changed"

Marks = Mapping[str, tuple[str, str]]
"""Digest and mode of files, by path."""


@dataclass(frozen=True)
class TreeFile:
    """A file of a tree.

    Attributes:
        mode: `0644` or `0755`; `was` is the mode of what it replaces.
        edited: what lies there is not what a restore put there: somebody's work, which goes into the stash.
    """

    path: str
    size: int
    mode: str
    sha256: str = ""
    was: str = ""
    edited: bool = False


@dataclass(frozen=True)
class TreePlan:
    """What becomes of every file of a tree.

    Attributes:
        added, changed: the files to write, as they are to be.
        removed: files that go, as they are; `links` are links that go, with what they say.
        replaced: the files that `changed` takes the place of, as they are.
        unchanged: files of the version that are there already.
        kept: what the version does not have and is left alone.
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
        """Whether the tree is as it should be."""
        return not (self.added or self.changed or self.removed or self.links)


def files_of(manifest: Manifest) -> tuple[FileEntry, ...]:
    """A version's files at their places in a restored tree: a snapshot's `project/x` is `x` there.

    Raises:
        UnsafePath: one would take the place of what a tree remembers.
    """
    is_snapshot = manifest.flavor == FILES_FLAVOR
    files = tuple(
        file.model_copy(update={"path": file.path.removeprefix(PROJECT)}) if is_snapshot else file
        for file in manifest.files
    )
    for file in files:
        if file.path.casefold().split("/")[0] == STATE_FOLDER:
            raise UnsafePath(
                f"{manifest.version} has a file {file.path}, a name that restored trees keep for themselves"
            )
    return files


def in_scope(only: Iterable[str]) -> Callable[[str], bool]:
    """Whether a path is one of `only`, or below one; everything is, if there are none."""
    wanted = [_bare(each) for each in only]
    return lambda path: not wanted or any(path == each or path.startswith(f"{each}/") for each in wanted)


def _bare(wish: str) -> str:
    return wish.strip().removeprefix("./").rstrip("/")


def chosen(files: Iterable[FileEntry], only: tuple[str, ...], version: str) -> tuple[FileEntry, ...]:
    """The files that `only` names: each a file, or a folder of them.

    Raises:
        BadInput: one is empty.
        NotFound: one names nothing; the hint says what there is.
    """
    every = tuple(files)
    for each in only:
        if not _bare(each):
            raise BadInput(f"--only {each!r} names no file or folder", hint="leave --only out to restore everything")
        if not any(map(in_scope([each]), (file.path for file in every))):
            places = sorted({_place(file.path) for file in every})
            more = f" and {len(places) - 12} more" if len(places) > 12 else ""
            raise NotFound(f"{version} has nothing at {each}", hint=f"there is: {', '.join(places[:12])}{more}")
    return tuple(file for file in every if in_scope(only)(file.path))


@dataclass(frozen=True)
class TreeListing:
    """What lies in a tree: everything by its path, and how to learn a file's digest and what a link says."""

    place: Path
    entries: Mapping[str, os.stat_result]
    digest: Callable[[str], str]
    link_text: Callable[[str], str]


def plan(
    seen: TreeListing,
    wanted: Iterable[Described],
    mine: Marks,
    removable: Callable[[str], bool],
    *,
    clean: bool = False,
) -> TreePlan:
    """Decide for everything in a tree what becomes of it.

    Args:
        wanted: what the tree is to have.
        mine: what earlier restores put there.
        removable: which of `mine` may go where the version does not have them; with `clean`, which of all files.

    Raises:
        UnsafePath: a link, or something that is neither file nor folder, lies where a file must be or on the way there.
        BadInput: something in the way has a name that can't be written down.
    """
    planning = _Planning(seen, {file.path: file for file in wanted}, mine)
    for path, info in seen.entries.items():
        if not stat.S_ISDIR(info.st_mode):
            planning.decide(path, info, goes=removable(path) and _may_go(path, info.st_mode, mine, clean))
    return planning.plan()


class _Planning:
    """A plan that is being made."""

    def __init__(self, seen: TreeListing, files: Mapping[str, Described], mine: Marks) -> None:
        self._seen, self._files, self._mine = seen, files, mine
        self._ways = {way for path in files for way in _ways(path)}
        self._changed: list[TreeFile] = []
        self._replaced: list[TreeFile] = []
        self._removed: list[TreeFile] = []
        self._unchanged: list[TreeFile] = []
        self._kept: list[str] = []
        self._links: dict[str, str] = {}

    def decide(self, path: str, info: os.stat_result, *, goes: bool) -> None:
        """Decide for a file, or what else is no folder; `goes` where nothing speaks for keeping it."""
        if path in self._files:
            self._compare(path, info)
        elif path in self._ways:
            self._check_is_file(path, info)
            self._remove(path, info)
        elif goes or any(way in self._files for way in _ways(path)):
            self._remove(path, info)
        else:
            self._kept.append(path)

    def plan(self) -> TreePlan:
        """What was decided."""
        there = {file.path for file in (*self._unchanged, *self._changed)}
        added = (_as_tree_file(file) for path, file in self._files.items() if path not in there)
        return TreePlan(
            added=tuple(added),
            changed=tuple(self._changed),
            removed=tuple(self._removed),
            replaced=tuple(self._replaced),
            unchanged=tuple(self._unchanged),
            kept=tuple(self._kept),
            links=self._links,
            folders=self._staying(),
        )

    def _compare(self, path: str, info: os.stat_result) -> None:
        self._check_is_file(path, info)
        now, then = self._there(path, info), self._files[path]
        if (now.sha256, now.mode) == (then.sha256, then.mode):
            self._unchanged.append(now)
        else:
            self._changed.append(replace(_as_tree_file(then), was=now.mode, edited=now.edited))
            self._replaced.append(now)

    def _remove(self, path: str, info: os.stat_result) -> None:
        if not canonical.is_text(path):
            raise BadInput(f"{self._seen.place}/{path!a} is in the way, and its name is no Unicode", hint=_MOVE)
        if stat.S_ISLNK(info.st_mode):
            self._links[path] = self._seen.link_text(path)
        else:
            self._check_is_file(path, info)
            self._removed.append(self._there(path, info))

    def _there(self, path: str, info: os.stat_result) -> TreeFile:
        mode, digest = mode_of(info), self._seen.digest(path)
        return TreeFile(path, info.st_size, mode, digest, edited=self._mine.get(path) != (digest, mode))

    def _check_is_file(self, path: str, info: os.stat_result) -> None:
        if not stat.S_ISREG(info.st_mode):
            what = "a link" if stat.S_ISLNK(info.st_mode) else "neither a file nor a folder"
            raise UnsafePath(f"{self._seen.place / path} is {what}, and in the way of the version's files", hint=_MOVE)

    def _staying(self) -> dict[str, os.stat_result]:
        """The folders that stay: all, but those of which the plan takes everything, or whose place a file takes."""
        alive = {way for path in (*self._kept, *self._files) for way in _ways(path)}
        emptied = {way for path in (*(file.path for file in self._removed), *self._links) for way in _ways(path)}

        def stays(path: str) -> bool:
            is_blocked = any(way in self._files for way in (path, *_ways(path)))
            return not is_blocked and (path in alive or path not in emptied)

        entries = self._seen.entries.items()
        return {path: info for path, info in entries if stat.S_ISDIR(info.st_mode) and stays(path)}


def _as_tree_file(file: Described) -> TreeFile:
    return TreeFile(file.path, file.size, file.mode, file.sha256)


def _may_go(path: str, mode: int, mine: Marks, clean: bool) -> bool:
    """Whether a file may be removed: one that a restore put there; with `clean` any, but never what git remembers."""
    if clean and (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        return not any(part in _NEVER_CLEANED for part in path.split("/"))
    return path in mine and stat.S_ISREG(mode)


def mode_of(info: os.stat_result) -> str:
    """A file's mode as versions keep it."""
    return "0755" if info.st_mode & stat.S_IXUSR else "0644"


def _ways(path: str) -> list[str]:
    """The folders on the way to a path."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _place(path: str) -> str:
    """What `--only` could name to get at a path: a component, a folder, or a file at the top."""
    parts = path.split("/")
    if len(parts) == 1:
        return path
    return "/".join(parts[:2] if parts[0] == "adapters" and len(parts) > 2 else parts[:1]) + "/"

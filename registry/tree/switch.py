"""Several versions in `DIR/versions/<v>/`, and a symbolic link `DIR/current` that is switched between them.

`.ulora/` in DIR holds working files: `lock`; `next`, a version that is being written; `ready`, a complete one that is
about to be renamed; `replaced/`, damaged versions that were replaced. A version is written, verified and flushed to the
disk before it gets its name, and the link is replaced by a rename: a reader of `current` sees the old version or the
new one.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from registry.errors import BadInput, BadManifest, BadVersionName, NotFound
from registry.machine.safe_folder import SafeFolder
from registry.names import VersionName
from registry.progress import Progress, no_progress
from registry.tree.file_system_errors import tree_errors
from registry.tree.layout import STATE_FOLDER, FetchFiles, tree_files
from registry.tree.version_folder import (
    CURRENT,
    MANIFEST,
    VERSIONS,
    FolderContent,
    damaged_files,
    linked,
    move_link,
    whole_version,
    write_folder,
)
from registry.versions.manifest import Manifest

_LOCK, _NEXT, _READY, _REPLACED = "lock", "next", "ready", "replaced"


@dataclass(frozen=True)
class Switched:
    """What a switch did, or with `done` False would do (or found done already).

    Attributes:
        before: what `current` was before: a version, or the link's target; None if there was none.
        folder: whether `versions/<v>/` was `made`, `kept` as it was, or `repaired` because files were damaged.
        repaired: the damaged files; `replaced` is where the damaged folder is now.
    """

    version: str
    root: Path
    before: str | None
    done: bool
    folder: Literal["made", "kept", "repaired"]
    files: int
    size: int
    repaired: tuple[str, ...] = ()
    replaced: Path | None = None


@dataclass(frozen=True)
class CurrentVersion:
    """The version that `current` links to, and whether its files still have the hashes of its manifest.

    Attributes:
        manifest_sha256: of the manifest on disk, to be compared with the store's.
        bad: files that are missing or changed.
    """

    root: Path
    version: str
    manifest_sha256: str
    files: int
    size: int
    bad: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no file is missing or changed."""
        return not self.bad


def switch(
    manifest: Manifest,
    root: Path,
    fetch: FetchFiles,
    *,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> Switched:
    """Write a version below `root` and make `current` a link to it.

    Raises:
        UnsafePath: `root` or a folder in it is a symbolic link.
        BadInput: `current` is not a link, or the file system refuses. Nothing was changed.
        NotNow: another switch is running there.
        MissingBlob: a file is not in the store; `current` was not changed.
        CorruptBlob: a file is corrupt; `current` was not changed.
        DiskFull: no space is left; `current` was not changed.
    """
    version, content = manifest.version, whole_version(manifest)
    place = f"{VERSIONS}/{version}"
    with tree_errors(root), _opened(root, dry_run=dry_run) as found:
        before = _before(found, root)
        bad = damaged_files(found, place, content.files) if found else None
        folder: Literal["made", "kept", "repaired"] = "made" if bad is None else "repaired" if bad else "kept"
        answer = Switched(
            version, root, before, False, folder, len(manifest.files), manifest.size, repaired=tuple(bad or ())
        )
        if dry_run or found is None or (folder == "kept" and before == version):
            return answer
        replaced = None
        if folder != "kept":
            _write(found, content, fetch, progress)
            replaced = _give_name(found, version)
        move_link(found, STATE_FOLDER, place)
        return replace(answer, done=True, replaced=root / replaced if replaced else None)


def current(root: Path) -> CurrentVersion:
    """The version that `current` links to, its files verified against its manifest. No server is needed.

    Raises:
        NotFound: there is no `current`.
        BadInput: it was not created by `ulora switch`.
        BadManifest: its manifest is damaged.
    """
    with tree_errors(root), _opened(root, dry_run=True) as found:
        version = _before(found, root)
        if found is None or version is None:
            raise NotFound(f"{root} has no {CURRENT}", hint=f"ulora switch VERSION --root {shlex.quote(str(root))}")
        data = _manifest_of(found, version)
        if data is None:
            raise BadInput(
                f"{root / CURRENT} links to {version}, which was not created by `ulora switch`",
                hint=f"ulora switch VERSION --root {shlex.quote(str(root))}",
            )
        manifest = Manifest.parse(data, f"{MANIFEST} of {root / CURRENT}")
        if manifest.version != version:
            raise BadManifest(f"{root / VERSIONS / version} holds the manifest of {manifest.version}")
        bad = damaged_files(found, f"{VERSIONS}/{version}", tree_files(manifest))
        return CurrentVersion(root, version, manifest.sha256, len(manifest.files), manifest.size, tuple(bad or ()))


# --- the steps -------------------------------------------------------------------------------------------------------


def _write(root: SafeFolder, content: FolderContent, fetch: FetchFiles, progress: Progress) -> None:
    """Write a version into `next`; rename it to `ready` when it is complete and flushed to the disk."""
    write_folder(root, f"{STATE_FOLDER}/{_NEXT}", content, fetch, progress)
    root.rename(f"{STATE_FOLDER}/{_NEXT}", root, f"{STATE_FOLDER}/{_READY}")


def _give_name(root: SafeFolder, version: str) -> str | None:
    """Rename `ready` to its version; return where a folder that it replaces is kept."""
    with root.folder(VERSIONS, make=True) as versions, root.folder(STATE_FOLDER) as work:
        if versions.stat(version) is None:
            work.rename(_READY, versions, version)
            return None
        if not versions.exchange(version, work, _READY):
            aside = _set_aside(root, versions, version)
            work.rename(_READY, versions, version)
            return aside
        return _set_aside(root, work, _READY)


def _set_aside(root: SafeFolder, folder: SafeFolder, name: str) -> str:
    """Keep a replaced folder: a changed file may be a person's edit."""
    aside = f"{STATE_FOLDER}/{_REPLACED}/{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    with root.folder(f"{STATE_FOLDER}/{_REPLACED}", make=True):
        folder.rename(name, root, aside)
    return aside


# --- parts -----------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path, *, dry_run: bool) -> Iterator[SafeFolder | None]:
    """The root, locked, after removing what a killed switch left. A dry run opens it only if it exists, else None."""
    with ExitStack() as stack:
        try:
            root = stack.enter_context(SafeFolder.at(path, make=not dry_run))
        except FileNotFoundError:
            yield None
            return
        if not dry_run:
            linked(root, path)
            work = stack.enter_context(root.folder(STATE_FOLDER, make=True))
            stack.enter_context(work.locked(_LOCK))
            _clear_up(root, work)
        yield root


def _clear_up(root: SafeFolder, work: SafeFolder) -> None:
    """Remove what a killed switch was writing; keep what it was replacing."""
    work.remove(_NEXT)
    if work.stat(_READY) is None:
        return
    with work.folder(_READY) as ready:
        version = _version_in(ready)
    if version and root.stat(f"{VERSIONS}/{version}") is None:
        work.remove(_READY)  # complete, but never renamed to its version
    else:
        _set_aside(root, work, _READY)


def _before(root: SafeFolder | None, path: Path) -> str | None:
    """The version that `current` links to, or another target of the link; None if there is no `current`.

    Raises:
        BadInput: it is not a link.
    """
    text = linked(root, path) if root else None
    if text is None:
        return None
    name = text.removeprefix(f"{VERSIONS}/")
    return name if name != text and _is_name(name) else text


def _manifest_of(root: SafeFolder, version: str) -> bytes | None:
    place = f"{VERSIONS}/{version}"
    if not _is_name(version) or root.stat(place) is None:
        return None
    with root.folder(place) as tree:
        return _manifest_in(tree)


def _manifest_in(tree: SafeFolder) -> bytes | None:
    return tree.read(f"{STATE_FOLDER}/{MANIFEST}", Manifest.LIMIT) or tree.read(MANIFEST, Manifest.LIMIT)


def _version_in(tree: SafeFolder) -> str | None:
    try:
        return Manifest.parse(_manifest_in(tree) or b"", MANIFEST).version
    except BadManifest:
        return None


def _is_name(text: str) -> bool:
    try:
        VersionName.parse(text)
    except BadVersionName:
        return False
    return True

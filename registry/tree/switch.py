"""Versions beside each other in `DIR/versions/<v>/`, and a link `DIR/current` that is moved from one to another.

`.ulora/` in DIR holds what that needs: `lock`; `next`, a version that is being written; `ready`, one that is whole and
about to take its place; `replaced/`, what was found damaged. A version is written, checked and settled on the disk
before it gets its name, and the link is replaced by a rename: whoever reads `current` finds the old version or the new.
"""

from __future__ import annotations

import errno
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from registry.errors import BadInput, BadManifest, BadVersionName, NotFound, UnsafePath
from registry.names import VersionName
from registry.progress import Progress, no_progress
from registry.tree.folders import Folder, tree_errors
from registry.tree.plan import STATE_FOLDER, files_of, mode_of
from registry.versions.manifest import FileEntry, Manifest

CURRENT = "current"
VERSIONS = "versions"
MANIFEST = "version.json"
_LOCK, _NEXT, _READY, _LINK, _REPLACED = "lock", "next", "ready", "link", "replaced"

Fetch = Callable[[Sequence[FileEntry]], Mapping[str, Path]]
"""Gives local files by digest."""


@dataclass(frozen=True)
class Switched:
    """What a switch did, or with `done` False would do (or found done already).

    Attributes:
        before: what `current` was before: a version, or what the link said; None for nothing.
        folder: what became of `versions/<v>/`: `made`, `kept` as it was, or `repaired` because files were damaged.
        repaired: those files; `replaced` is where the damaged folder lies now.
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
class Current:
    """What `current` is, and whether its files still hash to what its manifest says.

    Attributes:
        manifest_sha256: of the manifest that lies there, to be compared with the store's.
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
        """Whether every file is what it should be."""
        return not self.bad


def switch(
    manifest: Manifest,
    root: Path,
    fetch: Fetch,
    *,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> Switched:
    """Materialise a version below `root` and make `current` a link to it.

    Raises:
        UnsafePath: `root` or something in it is a link where a folder must be.
        BadInput: `current` is no link, or the file system refuses. Nothing was changed.
        NotNow: another switch is at work there.
        MissingBlob, CorruptBlob, DiskFull: `current` is as it was.
    """
    version, files = manifest.version, _all_files(manifest)
    place = f"{VERSIONS}/{version}"
    with tree_errors(root), _opened(root, dry_run=dry_run) as found:
        before = _before(found, root)
        bad = _bad(found, place, files) if found else None
        folder: Literal["made", "kept", "repaired"] = "made" if bad is None else "repaired" if bad else "kept"
        answer = Switched(
            version, root, before, False, folder, len(manifest.files), manifest.size, repaired=tuple(bad or ())
        )
        if dry_run or found is None or (folder == "kept" and before == version):
            return answer
        replaced = None
        if folder != "kept":
            _write(found, manifest, files, fetch, progress)
            replaced = _give_name(found, version)
        _move_link(found, place)
        return replace(answer, done=True, replaced=root / replaced if replaced else None)


def current(root: Path) -> Current:
    """What `current` is, checked by hash against the manifest that lies in it. No server is asked.

    Raises:
        NotFound: there is no `current`.
        BadInput: it was not made by `switch`.
        BadManifest: the manifest in it is damaged.
    """
    with tree_errors(root), _opened(root, dry_run=True) as found:
        version = _before(found, root)
        if found is None or version is None:
            raise NotFound(f"{root} has no {CURRENT}", hint=f"ulora switch VERSION --root {shlex.quote(str(root))}")
        data = _manifest_of(found, version)
        if data is None:
            raise BadInput(
                f"{root / CURRENT} leads to {version}, which is no version that `ulora switch` made",
                hint=f"ulora switch VERSION --root {shlex.quote(str(root))}",
            )
        manifest = Manifest.parse(data, f"{MANIFEST} of {root / CURRENT}")
        if manifest.version != version:
            raise BadManifest(f"{root / VERSIONS / version} holds the manifest of {manifest.version}")
        bad = _bad(found, f"{VERSIONS}/{version}", files_of(manifest))
        return Current(root, version, manifest.sha256, len(manifest.files), manifest.size, tuple(bad or ()))


# --- the steps -------------------------------------------------------------------------------------------------------


def _write(root: Folder, manifest: Manifest, files: Sequence[FileEntry], fetch: Fetch, progress: Progress) -> None:
    """Write the version beside; it is `ready` when it is whole and would outlive a power cut."""
    own = files_of(manifest)
    local = fetch(own)
    with root.folder(f"{STATE_FOLDER}/{_NEXT}", make=True) as tree:
        for file in own:
            with local[file.sha256].open("rb") as source:
                tree.fill(file, source, progress)
        tree.write(_place_of_manifest(own), manifest.to_bytes())
        bad = _bad(root, f"{STATE_FOLDER}/{_NEXT}", files)
        if bad:
            raise UnsafePath(f"{root.path} is being written by somebody else: {bad[0]}; {CURRENT} is as it was")
        tree.settle()
    root.rename(f"{STATE_FOLDER}/{_NEXT}", root, f"{STATE_FOLDER}/{_READY}")


def _give_name(root: Folder, version: str) -> str | None:
    """Move what is ready to its place; return where what was there lies now."""
    with root.folder(VERSIONS, make=True) as versions, root.folder(STATE_FOLDER) as work:
        if versions.look(version) is None:
            work.rename(_READY, versions, version)
            return None
        if not versions.exchange(version, work, _READY):
            aside = _put_by(root, versions, version)
            work.rename(_READY, versions, version)
            return aside
        return _put_by(root, work, _READY)


def _put_by(root: Folder, folder: Folder, name: str) -> str:
    """Keep what was replaced: a damaged file may be somebody's work."""
    aside = f"{STATE_FOLDER}/{_REPLACED}/{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    with root.folder(f"{STATE_FOLDER}/{_REPLACED}", make=True):
        folder.rename(name, root, aside)
    return aside


def _move_link(root: Folder, place: str) -> None:
    root.remove(f"{STATE_FOLDER}/{_LINK}")
    root.symlink(place, f"{STATE_FOLDER}/{_LINK}")
    root.settle()
    try:
        root.rename(f"{STATE_FOLDER}/{_LINK}", root, CURRENT)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
            raise _no_link(root.path) from error
        raise


# --- parts -----------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path, *, dry_run: bool) -> Iterator[Folder | None]:
    """The root, locked and without what a killed switch left; for a dry run only what is there, None for nothing."""
    with ExitStack() as stack:
        try:
            root = stack.enter_context(Folder.at(path, make=not dry_run))
        except FileNotFoundError:
            yield None
            return
        if not dry_run:
            _check_link(root, path)
            work = stack.enter_context(root.folder(STATE_FOLDER, make=True))
            stack.enter_context(work.locked(_LOCK))
            _clear_up(root, work)
        yield root


def _clear_up(root: Folder, work: Folder) -> None:
    """Remove what a killed switch was writing; keep what it was about to replace."""
    work.remove(_NEXT)
    if work.look(_READY) is None:
        return
    with work.folder(_READY) as ready:
        version = _version_in(ready)
    if version and root.look(f"{VERSIONS}/{version}") is None:
        work.remove(_READY)  # whole, but it never got its name
    else:
        _put_by(root, work, _READY)


def _before(root: Folder | None, path: Path) -> str | None:
    """The version that `current` leads to, or what else the link says; None for nothing.

    Raises:
        BadInput: it is no link.
    """
    if root is None or not _check_link(root, path):
        return None
    text = root.link_text(CURRENT)
    name = text.removeprefix(f"{VERSIONS}/")
    return name if name != text and _is_name(name) else text


def _check_link(root: Folder, path: Path) -> bool:
    """Whether there is a `current`.

    Raises:
        BadInput: it is no link.
    """
    info = root.look(CURRENT)
    if info is not None and not stat.S_ISLNK(info.st_mode):
        raise _no_link(path)
    return info is not None


def _no_link(root: Path) -> BadInput:
    move = shlex.join(["mv", str(root / CURRENT), str(root / "current.before")])
    return BadInput(
        f"{root / CURRENT} is no link, so it can't be switched; it was left alone", hint=f"move it away first: {move}"
    )


def _bad(root: Folder, place: str, files: Sequence[FileEntry]) -> list[str] | None:
    """The files of a materialised version that are missing or changed; None when there is no such folder."""
    if root.look(place) is None:
        return None
    with root.folder(place) as tree:
        return [file.path for file in files if not _is_whole(tree, file)]


def _is_whole(tree: Folder, file: FileEntry) -> bool:
    info = tree.look(file.path)
    if info is None or not stat.S_ISREG(info.st_mode) or (info.st_size, mode_of(info)) != (file.size, file.mode):
        return False
    return tree.digest(file.path) == file.sha256


def _all_files(manifest: Manifest) -> tuple[FileEntry, ...]:
    """A version's files and its manifest, as they are to lie on disk."""
    files, data = files_of(manifest), manifest.to_bytes()
    return (*files, FileEntry(path=_place_of_manifest(files), size=len(data), mode="0644", sha256=manifest.sha256))


def _place_of_manifest(files: Sequence[FileEntry]) -> str:
    """At the top, unless the version has a file of this name itself."""
    is_taken = any(file.path.casefold().split("/")[0] == MANIFEST for file in files)
    return f"{STATE_FOLDER}/{MANIFEST}" if is_taken else MANIFEST


def _manifest_of(root: Folder, version: str) -> bytes | None:
    place = f"{VERSIONS}/{version}"
    if not _is_name(version) or root.look(place) is None:
        return None
    with root.folder(place) as tree:
        return _manifest_in(tree)


def _manifest_in(tree: Folder) -> bytes | None:
    return tree.read(f"{STATE_FOLDER}/{MANIFEST}", Manifest.LIMIT) or tree.read(MANIFEST, Manifest.LIMIT)


def _version_in(tree: Folder) -> str | None:
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

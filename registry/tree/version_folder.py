"""A version's folder on disk, and a link that is moved between such folders: what `switch` and `kept_folder` share.

A folder is written under a temporary name, checked, and flushed to the disk before it gets its own.
"""

from __future__ import annotations

import errno
import shlex
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from registry.errors import BadInput, NotFound, UnsafePath
from registry.formats import canonical
from registry.machine.safe_folder import SafeFolder
from registry.names import is_target_name
from registry.progress import Progress, no_progress
from registry.tree.layout import STATE_FOLDER, FetchFiles, mode_of, open_fetched, tree_files
from registry.versions.manifest import FileEntry, Manifest

CURRENT = "current"
VERSIONS = "versions"
MANIFEST = "version.json"
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What every loader of PEFT folders asks for, vLLM's and NIM's too."""
_LINK = "link"


@dataclass(frozen=True)
class FolderContent:
    """What a version's folder holds.

    Attributes:
        fetched: files whose bytes are fetched.
        written: the bytes of other files, by path.
        left_out: files of the version that have no place in this folder.
    """

    fetched: tuple[FileEntry, ...]
    written: Mapping[str, bytes] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """All of its files."""
        return (*self.fetched, *(_entry(path, data) for path, data in self.written.items()))


def whole_version(manifest: Manifest) -> FolderContent:
    """All files of a version, with its manifest: at the top, or in `.ulora/` if the version has a file of that name.

    Raises:
        UnsafePath: a file would lie in `.ulora`, which ulora uses itself.
    """
    files = tree_files(manifest)
    is_taken = any(file.path.casefold().split("/")[0] == MANIFEST for file in files)
    return FolderContent(files, {f"{STATE_FOLDER}/{MANIFEST}" if is_taken else MANIFEST: manifest.to_bytes()})


def peft_folders(manifest: Manifest) -> FolderContent:
    """The adapter of each target as a PEFT folder, `<target>/adapter_config.json` and `adapter_model.safetensors`.

    Heads, detectors, the router, configuration and project are left out: PEFT's layout has no place for them.

    Raises:
        NotFound: the version has no adapter.
    """
    by_target: dict[str, list[FileEntry]] = {}
    for file in manifest.files:
        match file.path.split("/"):
            case ["adapters", target, name] if name in PEFT_FILES and is_target_name(target):
                by_target.setdefault(target, []).append(file.model_copy(update={"path": f"{target}/{name}"}))
    whole = [file for files in by_target.values() if len(files) == len(PEFT_FILES) for file in files]
    if not whole:
        raise NotFound(
            f"{manifest.version} has no adapter that could be a PEFT folder",
            hint="the layout `bundle` takes every version",
        )
    placed = {f"adapters/{file.path}" for file in whole}
    return FolderContent(tuple(whole), left_out=tuple(f.path for f in manifest.files if f.path not in placed))


def write_folder(
    root: SafeFolder, place: str, content: FolderContent, fetch: FetchFiles, progress: Progress = no_progress
) -> None:
    """Write a folder at a place that is free, read it back, and flush it to the disk.

    Raises:
        UnsafePath: another process writes there.
        MissingBlob, CorruptBlob: see `fetch`, and `SafeFolder.write_verified`.
    """
    local = fetch(content.fetched)
    with root.folder(place, make=True) as tree:
        for file in content.fetched:
            with open_fetched(local[file.sha256]) as source:
                tree.write_verified(file, source, progress)
        for path, data in content.written.items():
            tree.write(path, data)
        # These bytes were counted when they were written: now only a sign of life.
        bad = damaged_files(root, place, content.files, lambda _: progress(0))
        if bad:
            raise UnsafePath(f"another process writes into {root.path}: {bad[0]} changed; {CURRENT} was not changed")
        tree.sync()


def damaged_files(
    root: SafeFolder, place: str, files: Sequence[FileEntry], progress: Progress = no_progress
) -> list[str] | None:
    """The files of a folder that are missing or changed; None if the folder does not exist."""
    if root.stat(place) is None:
        return None
    with root.folder(place) as tree:
        return [file.path for file in files if not _is_whole(tree, file, progress)]


def move_link(root: SafeFolder, work: str, target: str) -> None:
    """Make `current` a link to a place in the same folder, by a rename; `work` is the folder of working files.

    Raises:
        BadInput: `current` is not a link.
    """
    root.remove(f"{work}/{_LINK}")
    root.symlink(target, f"{work}/{_LINK}")
    root.sync()
    try:
        root.rename(f"{work}/{_LINK}", root, CURRENT)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
            raise not_a_link(root.path) from error
        raise


def linked(root: SafeFolder, path: Path) -> str | None:
    """Where `current` links to, as text; None if there is no `current`. `path` is the root's, for messages.

    Raises:
        BadInput: it is not a link.
    """
    info = root.stat(CURRENT)
    if info is None:
        return None
    if not stat.S_ISLNK(info.st_mode):
        raise not_a_link(path)
    return root.read_link(CURRENT)


def not_a_link(root: Path) -> BadInput:
    """The error where `current` is not a link."""
    move = shlex.join(["mv", str(root / CURRENT), str(root / "current.before")])
    return BadInput(
        f"{root / CURRENT} is not a symbolic link, so it can't be switched; nothing was changed",
        hint=f"move it away first: {move}",
    )


def _is_whole(tree: SafeFolder, file: FileEntry, progress: Progress) -> bool:
    info = tree.stat(file.path)
    if info is None or not stat.S_ISREG(info.st_mode) or (info.st_size, mode_of(info)) != (file.size, file.mode):
        return False
    return tree.digest(file.path, file.size, progress) == file.sha256


def _entry(path: str, data: bytes) -> FileEntry:
    return FileEntry(path=path, size=len(data), mode="0644", sha256=canonical.sha256(data))

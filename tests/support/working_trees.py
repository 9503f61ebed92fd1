"""Trees on disk and versions to restore into them, without a store: bytes are in a folder by their digest."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from registry.tree.restore import RestoreRequest
from registry.versions.manifest import Component, FileEntry, Manifest

Content = Mapping[str, str]
"""Texts by path. A path that ends in `*` is that of an executable file."""


@dataclass(frozen=True)
class Shelf:
    """Versions of files, and the bytes of all of them."""

    folder: Path
    fetched: list[str] = field(default_factory=list)

    def entries(self, content: Content) -> tuple[FileEntry, ...]:
        """The files of a version; their bytes are added to the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return tuple(self._entry(path, text) for path, text in sorted(content.items()))

    def order(self, version: str, content: Content, *only: str, clean: bool = False) -> RestoreRequest:
        """What restores a version with this content."""
        return RestoreRequest(version, self.entries(content), self.fetch, only, clean)

    def manifest(self, version: str, content: Content) -> Manifest:
        """A snapshot with this content."""
        files = [entry.model_copy(update={"path": f"project/{entry.path}"}) for entry in self.entries(content)]
        return Manifest.make(
            model="plants", version=version, flavor="files", backbone=None, files=files,
            components={"project": Component()}, timestamp="2026-11-21T12:00:00Z",
        )  # fmt: skip

    def fetch(self, files: Sequence[FileEntry]) -> dict[str, Path]:
        """Where the files are, as the cache of blobs answers it."""
        self.fetched.extend(file.path for file in files)
        return {file.sha256: self.folder / file.sha256 for file in files}

    def fetch_and_exchange(self, exchange: Callable[[Path], None]) -> Callable[[Sequence[FileEntry]], dict[str, Path]]:
        """A fetch, after which somebody exchanges the last of the files."""

        def fetch(files: Sequence[FileEntry]) -> dict[str, Path]:
            found = self.fetch(files)
            last = found[files[-1].sha256]
            last.rename(last.with_suffix(".whole"))
            exchange(last)
            return found

        return fetch

    def _entry(self, path: str, text: str) -> FileEntry:
        data = text.encode()
        digest = hashlib.sha256(data).hexdigest()
        (self.folder / digest).write_bytes(data)
        mode = "0755" if path.endswith("*") else "0644"
        return FileEntry(path=path.rstrip("*"), size=len(data), mode=mode, sha256=digest)


def tree_of(folder: Path) -> dict[str, str]:
    """The content of a folder, as `write_tree` takes it, without ulora's own files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        info = path.lstat()
        if name.startswith(".ulora"):
            continue
        if stat.S_ISLNK(info.st_mode):
            found[name] = f"-> {path.readlink()}"
        elif stat.S_ISREG(info.st_mode):
            found[name + "*" * bool(info.st_mode & stat.S_IXUSR)] = path.read_bytes().decode(errors="replace")
        elif stat.S_ISDIR(info.st_mode) and not any(path.iterdir()):
            found[f"{name}/"] = ""
    return found


def swap_for_link(folder: Path, to: Path) -> Path:
    """Put a link in the place of a folder, as another user may do at any time; returns where the folder is now."""
    aside = folder.with_name(f"{folder.name}-before")
    folder.rename(aside)
    folder.symlink_to(to)
    return aside


def write_tree(folder: Path, content: Content) -> Path:
    """Write files; a path that ends in `*` is executable."""
    for path, text in content.items():
        file = folder / path.rstrip("*")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755 if path.endswith("*") else 0o644)
    return folder


def link_to_the_same_bytes(path: Path) -> None:
    """Put a link in the place of a file that `Shelf.fetch_and_exchange` has moved away."""
    path.symlink_to(path.with_suffix(".whole"))

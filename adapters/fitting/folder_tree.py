"""The image files below a folder, without the files that operating systems and archive programs leave there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from registry.errors import BadInput

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
OOD_FOLDER = "_ood"
MAX_DEPTH = 8
"""Folders within folders that are looked into."""

Parts: TypeAlias = "tuple[str, ...]"
"""The path of a folder inside the data, as the names on the way to it."""

_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
)
"""What Windows, macOS, Synology's servers, Linux and Python put beside people's files, in lower case. Names that begin
with a dot (`.DS_Store`, AppleDouble's `._x.jpg`, `.ipynb_checkpoints`) are theirs too."""


@dataclass(frozen=True)
class FolderTree:
    """The files of interest below a folder.

    Attributes:
        images: each folder -> its own image files, sorted; folders without image files too.
        marked: the same for folders whose name, or that of a folder around them, begins with `_`; without `_ood`.
        ignored: how many other files there are, by suffix, e.g. `.tif`; those beside the folders at the top excepted.
        system: how many files of operating systems there are. Their folders count as one.
    """

    images: Mapping[Parts, tuple[Path, ...]]
    marked: Mapping[Parts, tuple[Path, ...]]
    ignored: Mapping[str, int]
    system: int

    def below(self, parts: Parts) -> FolderTree:
        """The same for a folder inside."""
        depth = len(parts)
        inner = {name[depth:]: files for name, files in self.images.items() if name[:depth] == parts}
        return FolderTree(inner, {}, {}, 0)


def read_tree(root: Path) -> FolderTree:
    """Look at all files below a folder.

    Raises:
        BadInput: when a folder can't be read.
    """
    walk = _TreeWalk()
    walk.visit(root, (), _folders_around(root))
    return FolderTree(walk.images, walk.marked, dict(sorted(walk.ignored.items())), walk.system)


def images_below(root: Path) -> list[Path]:
    """All image files in a folder and the folders in it, sorted.

    Raises:
        BadInput: when a folder can't be read.
    """
    return sorted(path for files in read_tree(root).images.values() for path in files)


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder itself, sorted; empty if there is no such folder.

    Raises:
        BadInput: when it can't be read.
    """
    return [child for child in _children(folder) if _is_image(child) and not _is_system_file(child.name)]


def unicode_name(name: Path | str) -> str:
    """A name as valid Unicode; bytes that are not UTF-8 become replacement characters."""
    return os.fsencode(name).decode("utf-8", "replace")


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turn an OSError while a folder is read into `BadInput`, so that no file is left out silently."""
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"{unicode_name(folder)} can't be read: {error.strerror}", hint="make it readable, or move it elsewhere"
        ) from error


def _folders_around(root: Path) -> tuple[tuple[int, int], ...]:
    """The folders that a folder lies in: a link to one of them, such as `/`, leads to it again, and to all else."""
    with readable(root):
        return tuple((status.st_dev, status.st_ino) for status in map(Path.stat, root.resolve().parents))


class _TreeWalk:
    def __init__(self) -> None:
        self.images: dict[Parts, tuple[Path, ...]] = {}
        self.marked: dict[Parts, tuple[Path, ...]] = {}
        self.ignored: Counter[str] = Counter()
        self.system = 0

    def visit(self, folder: Path, parts: Parts, around: tuple[tuple[int, int], ...]) -> None:
        """Look into a folder. `around` are the folders that it lies in, as a link may lead back to one of them."""
        images: list[Path] = []
        with readable(folder):
            status = folder.stat()
            here = (status.st_dev, status.st_ino)
            if here in around or len(parts) > MAX_DEPTH:
                return
            for child in _children(folder):
                if child.is_dir():
                    self._enter(child, parts, (*around, here))
                elif _is_system_file(child.name):
                    self.system += 1
                elif _is_image(child):
                    images.append(child)
                elif parts and child.is_file():
                    self.ignored[unicode_name(child.suffix.lower() or child.name)] += 1
        found = self.marked if any(name.startswith("_") for name in parts) else self.images
        found[parts] = tuple(images)

    def _enter(self, child: Path, parts: Parts, around: tuple[tuple[int, int], ...]) -> None:
        if child.name.startswith(".") or child.name.lower() in _SYSTEM_FOLDERS:
            self.system += 1
        elif parts or child.name != OOD_FOLDER:
            self.visit(child, (*parts, child.name), around)


def _children(folder: Path) -> list[Path]:
    """The sorted children of a folder; empty if there is no such folder."""
    with readable(folder):
        return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _is_system_file(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FILES

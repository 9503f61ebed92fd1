"""Names of a version's files among MLflow's artifacts.

MLflow refuses some paths that a version may hold (`meeting #1.md`), and decodes others (`50%25.md`). Such a file is
stored below `renamed/`, under its digest and the part of its name that is safe, and gets its name back when it is
downloaded: the manifest beside it, `version.json`, says which digest belongs to which path.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from registry.errors import UloraError
from registry.formats.local_file import LocalFile
from registry.versions.manifest import RENAMED, Manifest

MANIFEST_NAME = "version.json"
REPORT = "report.html"
"""A version's report, which is not one of the version's own files."""


def write_files(manifest: Manifest, files: Mapping[str, LocalFile], folder: Path) -> None:
    """Write a version's files to a folder under their artifact names (hard links if possible)."""
    for entry in manifest.files:
        target = folder / entry.artifact_path
        if target.exists():  # equal bytes under two names that are both renamed
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with files[entry.path].open("rb") as opened:
            _put(opened, target)


def _put(opened: BinaryIO, target: Path) -> None:
    """Give an open file, and not what has its path by now, another name; copy it where that is not possible."""
    fd = opened.fileno()
    try:  # with `src_dir_fd`, which an absolute path does not use, Python lets the system follow the link to the file
        os.link(f"/proc/self/fd/{fd}", target, src_dir_fd=fd, follow_symlinks=True)
    except OSError:
        with target.open("wb") as copy:
            shutil.copyfileobj(opened, copy)


def write_bundle(manifest: Manifest, files: Mapping[str, LocalFile], folder: Path) -> None:
    """Write a version to a folder: its files under their artifact names, and `version.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_files(manifest, files, folder)
    write_manifest(manifest, folder)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write a version's manifest alone to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())


def restore_names(folder: Path) -> None:
    """Give files in a downloaded folder their own names back; a folder without a readable manifest is left as it is."""
    for document in folder.rglob(MANIFEST_NAME):
        if not (document.parent / RENAMED).is_dir():
            continue
        try:
            manifest = Manifest.parse(document.read_bytes(), MANIFEST_NAME)
        except UloraError:
            continue
        for entry in manifest.files:
            stored = document.parent / entry.artifact_path
            if entry.artifact_path != entry.path and stored.is_file():
                target = document.parent / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(stored, target)
        shutil.rmtree(document.parent / RENAMED)

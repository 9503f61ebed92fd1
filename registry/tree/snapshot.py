"""Take a snapshot of a project's folder: which files are included, excluded or refused.

Excluded are git's own folder, files that `.gitignore` excludes (each one for its folder and below), caches, virtual
environments, folders that `ulora` wrote, and symbolic links, because a version holds files only. Neither git nor a
repository is needed, and the same files give the same snapshot everywhere. `.gitignore` also applies to files that git
tracks.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from registry.errors import BadBundle, BadWeights, no_folder
from registry.formats.local_file import LocalFile
from registry.machine.gitignore import IgnoreRules, is_cache
from registry.machine.source_folder import SourceFolder
from registry.progress import Progress, no_progress
from registry.tree.layout import FILES_FLAVOR, PROJECT, STATE_FOLDER
from registry.versions.bundle import Bundle, file_entries, read_component_files
from registry.versions.compose import ComponentFiles
from registry.versions.manifest import MAX_FILES, Component, check_new_path, check_unique
from registry.versions.weights import weights_sha256

COMPONENT = PROJECT.rstrip("/")
_OURS = (STATE_FOLDER, ".*.ulora", ".ulora-stash")
_RESTORED = f"{STATE_FOLDER}/restored.json"
_ENVIRONMENT = "pyvenv.cfg"
_VERSIONS = "versions"
_MAX_DEPTH = 64
_SHOWN = 20
_KEPT_LINKS = 1000


@dataclass(frozen=True)
class Project:
    """The content of a project's folder: the files to include, by path, and what is excluded.

    Attributes:
        size: bytes of the files.
        ignored: files that `.gitignore` or the list of caches excludes; a whole folder ends in `/`.
        links: symbolic links, with their targets.
        special: sockets, pipes and devices.
    """

    folder: Path
    files: Mapping[str, LocalFile]
    size: int
    ignored: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    special: tuple[str, ...] = ()

    @classmethod
    def at(cls, folder: Path) -> Project:
        """Read a project's folder.

        Raises:
            BadBundle: it is not a folder, can't be read, or has a path that a version can't have.
        """
        if not folder.is_dir():
            raise BadBundle(no_folder(folder), hint="give the folder of a project")
        try:
            walk = _ProjectWalk(SourceFolder(folder))
            walk.enter("", IgnoreRules())
            check_unique(sorted(walk.files))
        except ValueError as error:
            raise BadBundle(f"{folder} can't become a version: {error}", hint="rename or remove that file") from error
        except OSError as error:
            raise BadBundle(f"{error.filename} can't be read: {error.strerror}") from error
        if not walk.files:
            raise BadBundle(f"{folder} has no files for a snapshot", hint="check what .gitignore excludes")
        files = dict(sorted(walk.files.items()))
        return cls(folder, files, walk.size, tuple(walk.ignored), walk.links, tuple(walk.special))

    def left_out(self) -> list[str]:
        """What is excluded, one line for each reason, for people."""
        return [*([f"excluded, ignored: {_some(self.ignored)}"] if self.ignored else []), *self.cannot_hold()]

    def cannot_hold(self) -> list[str]:
        """What is excluded because a version can't hold it, one line for each reason."""
        links = [f"{path} -> {text}" for path, text in self.links.items()]
        reasons = {"links, as a version holds files only": links, "neither files nor folders": self.special}
        return [f"excluded, {why}: {_some(names)}" for why, names in reasons.items() if names]

    def facts(self) -> dict[str, Any]:
        """What the version's provenance says about the project: its links, which its files can't hold."""
        return {"links": dict(list(self.links.items())[:_KEPT_LINKS])} if self.links else {}


def read_project(project: Project, progress: Progress = no_progress) -> Bundle:
    """Hash a project's files, as a bundle with the component `project` and no backbone.

    Raises:
        BadBundle: a file can't be read, or changes while it is read.
    """
    paths = {f"{PROJECT}{path}": file for path, file in project.files.items()}
    return Bundle(None, {COMPONENT: _component(project)}, file_entries(paths, progress), paths, FILES_FLAVOR)


def read_component(
    name: str, folder: Path, progress: Progress = no_progress
) -> tuple[ComponentFiles, dict[str, LocalFile]]:
    """Read one component of a version from a folder; of a project, the files that a snapshot includes.

    Raises:
        BadInput: there is no component of this name.
        BadBundle: a file is missing, unreadable, a link, or has a path that is not allowed.
        BadWeights: a safetensors file is truncated or malformed.
    """
    if name != COMPONENT:
        return read_component_files(name, folder, progress)
    project = Project.at(folder)
    read = read_project(project, progress)
    origin = {"source": str(folder), **project.facts()}
    return ComponentFiles(name, read.components[name], read.files, str(folder), origin), read.paths


def with_project(bundle: Bundle, project: Bundle) -> Bundle:
    """Add a project's files to a bundle, as its component `project`.

    Raises:
        BadBundle: it has that component already.
    """
    if COMPONENT in bundle.components:
        raise BadBundle("the bundle already has project/", hint="omit --source, or remove project/ from the bundle")
    return Bundle(
        bundle.backbone,
        dict(sorted({**bundle.components, **project.components}.items())),
        tuple(sorted((*bundle.files, *project.files), key=lambda file: file.path)),
        {**bundle.paths, **project.paths},
        bundle.flavor,
    )


def _component(project: Project) -> Component:
    """The component of a project. Weights may be damaged, for example test data: then they get no digest."""
    try:
        return Component(weights_sha256=weights_sha256(project.files), requires={})
    except BadWeights:
        return Component(weights_sha256=None, requires={})


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


class _ProjectWalk:
    """Reads a project's folder, and collects what it finds."""

    def __init__(self, folder: SourceFolder) -> None:
        self._folder = folder
        self.files: dict[str, LocalFile] = {}
        self.size = 0
        self.ignored: list[str] = []
        self.links: dict[str, str] = {}
        self.special: list[str] = []

    def enter(self, here: str, rules: IgnoreRules) -> None:
        """Read a folder; `here` is its path, with a `/` at the end."""
        if here.count("/") > _MAX_DEPTH:
            raise BadBundle(f"{self._folder.file(here)} is nested more than {_MAX_DEPTH} folders deep")
        below = rules.in_folder(here, self._folder)
        for name, info in self._folder.entries(here):
            path = here + name
            is_folder = stat.S_ISDIR(info.st_mode)
            if (
                _is_left_out(name)
                or (is_folder and self._is_generated(here, name))
                or below.exclude(path, is_folder=is_folder)
            ):
                self.ignored.append(f"{path}/" if is_folder else path)
            elif stat.S_ISLNK(info.st_mode):
                self.links[path] = self._folder.read_link(path)
            elif is_folder:
                self.enter(f"{path}/", below)
            elif stat.S_ISREG(info.st_mode):
                self._include(path, info.st_size)
            else:
                self.special.append(path)

    def _is_generated(self, here: str, name: str) -> bool:
        """Whether a folder is a virtual environment, a restored tree, or the `versions/` of `ulora switch`."""
        is_switched = name == _VERSIONS and self._folder.is_folder(f"{here}{STATE_FOLDER}")
        return is_switched or any(self._folder.is_file(f"{here}{name}/{mark}") for mark in (_ENVIRONMENT, _RESTORED))

    def _include(self, path: str, size: int) -> None:
        self.files[check_new_path(path)] = self._folder.file(path)
        check_new_path(f"{PROJECT}{path}")
        self.size += size
        if len(self.files) > MAX_FILES:
            raise BadBundle(f"{self._folder.path} has more than {MAX_FILES} files")


def _is_left_out(name: str) -> bool:
    return is_cache(name) or any(fnmatchcase(name, pattern) for pattern in _OURS)

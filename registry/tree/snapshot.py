"""A project's files as they lie there: what to take, what to leave out, what to refuse.

Left out are git's own folder, what `.gitignore` files exclude (each for its folder and below), caches, virtual
environments, trees that `ulora` put there, and links: a version holds files only. `.gitignore` is read by `pathspec`:
neither git nor a repository is needed, and the same files give the same snapshot everywhere. It counts also for files
that git tracks all the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import BadBundle, BadWeights
from registry.progress import Progress, no_progress
from registry.tree.plan import FILES_FLAVOR, PROJECT, STATE_FOLDER
from registry.versions.bundle import Bundle, file_entries, read_piece
from registry.versions.compose import Piece
from registry.versions.manifest import MAX_FILES, Component, check_path, check_unique
from registry.versions.weights import weights_sha256

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

COMPONENT = PROJECT.rstrip("/")
_IGNORE_FILE = ".gitignore"
_CACHES = (
    ".git", ".hg", ".svn", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox",
    ".venv", "node_modules", ".ipynb_checkpoints", ".cache", "*.egg-info", ".eggs", "*.pyc", "*.pyo", ".DS_Store",
    ".import_linter_cache", ".coverage", STATE_FOLDER, ".*.ulora", ".ulora-stash",
)  # fmt: skip
_RESTORED = f"{STATE_FOLDER}/restored.json"
_ENVIRONMENT = "pyvenv.cfg"
_VERSIONS = "versions"
_MAX_DEPTH = 64
_SHOWN = 20
_KEPT_LINKS = 1000


@dataclass(frozen=True)
class Project:
    """A project's folder, walked: the files to take by their paths in it, and what is left out.

    Attributes:
        size: bytes of the files.
        ignored: what `.gitignore` files and the list of caches exclude: files, or whole folders with a `/` at the end.
        links: links, with what they say.
        odd: sockets and the like.
    """

    folder: Path
    files: Mapping[str, Path]
    size: int
    ignored: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    odd: tuple[str, ...] = ()

    @classmethod
    def at(cls, folder: Path) -> Project:
        """Walk a project's folder.

        Raises:
            BadBundle: it is no folder, can't be read, or holds a path that a version can't have.
        """
        if not folder.is_dir():
            raise BadBundle(f"{folder} is no folder", hint="give the folder of a project")
        walk = _Walk(folder)
        try:
            walk.enter("", ())
            check_unique(sorted(walk.files))
        except ValueError as error:
            raise BadBundle(f"{folder} can't become a version: {error}", hint="rename or remove that file") from error
        except OSError as error:
            raise BadBundle(f"{error.filename} can't be read: {error.strerror}") from error
        if not walk.files:
            raise BadBundle(f"{folder} holds no file that a snapshot takes", hint="see what .gitignore excludes")
        files = dict(sorted(walk.files.items()))
        return cls(folder, files, walk.size, tuple(walk.ignored), walk.links, tuple(walk.odd))

    def left_out(self) -> list[str]:
        """What is left out, a line for each reason, for people."""
        return [*([f"left out, ignored: {_some(self.ignored)}"] if self.ignored else []), *self.cannot_hold()]

    def cannot_hold(self) -> list[str]:
        """What of it a version can't hold, however much one may want it."""
        links = [f"{path} -> {text}" for path, text in self.links.items()]
        told = {"links, as a version holds files only": links, "neither files nor folders": self.odd}
        return [f"left out, {why}: {_some(names)}" for why, names in told.items() if names]

    def facts(self) -> dict[str, Any]:
        """What is kept in a version's provenance of what its files can't hold."""
        return {"links": dict(list(self.links.items())[:_KEPT_LINKS])} if self.links else {}


def read_project(project: Project, progress: Progress = no_progress) -> Bundle:
    """A project's files, hashed, as the content of a snapshot: below `project/`, without a backbone.

    Raises:
        BadBundle: a file can't be read, or changes while it is read.
    """
    paths = {f"{PROJECT}{path}": file for path, file in project.files.items()}
    return Bundle(None, {COMPONENT: _component(project)}, file_entries(paths, progress), paths, FILES_FLAVOR)


def read_part(name: str, folder: Path, progress: Progress = no_progress) -> tuple[Piece, dict[str, Path]]:
    """As `registry.versions.bundle.read_piece`; of a project, what a snapshot takes."""
    if name != COMPONENT:
        return read_piece(name, folder, progress)
    project = Project.at(folder)
    read = read_project(project, progress)
    origin = {"source": str(folder), **project.facts()}
    return Piece(name, read.components[name], read.files, str(folder), origin), read.paths


def joined(bundle: Bundle, project: Bundle) -> Bundle:
    """A bundle with a project's files as its component `project`.

    Raises:
        BadBundle: it has that component already.
    """
    if COMPONENT in bundle.components:
        raise BadBundle(
            "the bundle has project/ already", hint="leave --source out, or remove project/ from the bundle"
        )
    return Bundle(
        bundle.backbone,
        dict(sorted({**bundle.components, **project.components}.items())),
        tuple(sorted((*bundle.files, *project.files), key=lambda file: file.path)),
        {**bundle.paths, **project.paths},
        bundle.flavor,
    )


def _component(project: Project) -> Component:
    """Weights in a project may be damaged on purpose, as tests have them: then they have no digest of their own."""
    try:
        return Component(weights_sha256=weights_sha256(project.files), requires={})
    except BadWeights:
        return Component(weights_sha256=None, requires={})


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


class _Walk:
    """A walk through a project's folder, and what was found so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: dict[str, Path] = {}
        self.size = 0
        self.ignored: list[str] = []
        self.links: dict[str, str] = {}
        self.odd: list[str] = []

    def enter(self, here: str, specs: tuple[_Ignoring, ...]) -> None:
        """Look at everything in a folder, `here` being its path with a `/` at the end."""
        if here.count("/") > _MAX_DEPTH:
            raise BadBundle(f"{self._folder / here} is nested deeper than {_MAX_DEPTH} folders")
        entries = sorted(os.scandir(self._folder / here), key=lambda entry: entry.name)
        below = (*specs, *_spec_of(entries, here))
        for entry in entries:
            path = here + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if (
                _is_cache(entry)
                or (is_folder and _is_ours(entry, here, self._folder))
                or _ignores(below, path, is_folder)
            ):
                self.ignored.append(f"{path}/" if is_folder else path)
            elif entry.is_symlink():
                self.links[path] = str(Path(entry.path).readlink())
            elif is_folder:
                self.enter(f"{path}/", below)
            elif entry.is_file(follow_symlinks=False):
                self._take(path, entry)
            else:
                self.odd.append(path)

    def _take(self, path: str, entry: os.DirEntry[str]) -> None:
        self.files[check_path(path)] = Path(entry.path)
        check_path(f"{PROJECT}{path}")
        self.size += entry.stat(follow_symlinks=False).st_size
        if len(self.files) > MAX_FILES:
            raise BadBundle(f"{self._folder} holds more than {MAX_FILES} files")


@dataclass(frozen=True)
class _Ignoring:
    """One `.gitignore`: it speaks of what is below `folder`, its path with a `/` at the end."""

    folder: str
    spec: GitIgnoreSpec


def _spec_of(entries: Sequence[os.DirEntry[str]], here: str) -> Iterator[_Ignoring]:
    for entry in entries:
        if entry.name == _IGNORE_FILE and entry.is_file(follow_symlinks=False):
            from pathspec import GitIgnoreSpec

            lines = Path(entry.path).read_bytes().decode("utf-8", "surrogateescape").splitlines()
            yield _Ignoring(here, GitIgnoreSpec.from_lines(lines))


def _ignores(specs: Sequence[_Ignoring], path: str, is_folder: bool) -> bool:
    """Whether the nearest `.gitignore` that says anything of a path excludes it."""
    for ignoring in reversed(specs):
        inner = path.removeprefix(ignoring.folder) + "/" * is_folder
        said = ignoring.spec.check_file(inner).include
        if said is not None:
            return said
    return False


def _is_cache(entry: os.DirEntry[str]) -> bool:
    return any(fnmatchcase(entry.name, pattern) for pattern in _CACHES)


def _is_ours(entry: os.DirEntry[str], here: str, folder: Path) -> bool:
    """Whether a folder is a virtual environment, a restored tree, or the versions that `switch` put there."""
    with suppress(OSError):
        inner = Path(entry.path)
        is_materialised = entry.name == _VERSIONS and (folder / here / STATE_FOLDER).is_dir()
        return is_materialised or (inner / _ENVIRONMENT).is_file() or (inner / _RESTORED).is_file()
    return False

"""Read, check and hash a bundle on disk before anything is uploaded, and make its manifest."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ValidationError

from registry.errors import BadBundle, BadInput, BadManifest, BadWeights, no_folder
from registry.formats import canonical
from registry.formats.document import first_problem
from registry.formats.local_file import LocalFile
from registry.machine import clock, provenance
from registry.machine.source_folder import SourceFolder
from registry.names import VersionName, check_new_target
from registry.parallel import in_parallel
from registry.progress import Progress, no_progress
from registry.versions.compose import CONFIG, ComponentFiles, check_name
from registry.versions.manifest import (
    MAX_FILES,
    BackboneRef,
    Component,
    FileEntry,
    Manifest,
    Parent,
    check_new_path,
    check_new_size,
    check_unique,
)
from registry.versions.weights import may_be_pickle, weights_sha256

DEFAULT_FLAVOR = "dino-lora"
_TOP = ("adapters", "router", "config", "project")
_PROJECT = "project/"
_MAX_DEPTH = 32
_SHOWN = 5
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Bundle:
    """A bundle's content, hashed. `paths` are the local files by manifest path; files taken from another version have
    none."""

    backbone: BackboneRef | None
    components: dict[str, Component]
    files: tuple[FileEntry, ...]
    paths: dict[str, LocalFile]
    flavor: str = DEFAULT_FLAVOR

    @property
    def sources(self) -> dict[str, LocalFile]:
        """Local files by the sha256 of their bytes."""
        return {file.sha256: self.paths[file.path] for file in self.files if file.path in self.paths}

    @property
    def is_on_disk(self) -> bool:
        """Whether all of its files are local."""
        return len(self.paths) == len(self.files)

    def replacing(self, paths: Mapping[str, LocalFile]) -> Bundle:
        """The same bundle with other local files at some of its paths.

        Raises:
            BadBundle: a file can't be read.
        """
        new = {file.path: file for file in file_entries(paths)}
        files = tuple(new.get(file.path, file) for file in self.files)
        return replace(self, files=files, paths={**self.paths, **paths})


def read_bundle(folder: Path, progress: Progress = no_progress) -> Bundle:
    """Read a bundle: `backbone.json`, `adapters/<target>/…`, and optionally `router/…`, `config/…`, `project/…`.

    Raises:
        BadBundle: a file is missing, unreadable, a link, a pickle, or has a path that is not allowed.
        BadWeights: a safetensors file is truncated or malformed.
    """
    if not folder.is_dir():
        raise BadBundle(no_folder(folder), hint="a bundle is a folder with backbone.json and adapters/<target>/…")
    paths = _find_files(folder)
    _refuse_pickles(paths)
    backbone = _read_backbone(paths)

    try:
        components = _read_components(paths, backbone)
    except OSError as error:
        raise BadBundle(f"{error.filename} can't be read: {error.strerror}") from error
    return Bundle(backbone, components, file_entries(paths, progress), paths)


def read_component_files(
    name: str, folder: Path, progress: Progress = no_progress
) -> tuple[ComponentFiles, dict[str, LocalFile]]:
    """Read one component from a folder, with its local files by their paths in a version.

    Args:
        name: `adapters/<target>`, `router` or `config`; `registry.tree.snapshot` reads a project.
        folder: the folder with the component's own files.

    Raises:
        BadInput: there is no component of this name.
        BadBundle: a file is missing, unreadable, a link, a pickle, or has a path that is not allowed.
        BadWeights: a safetensors file is truncated or malformed.
    """
    check_name(name)
    if not folder.is_dir():
        raise BadBundle(no_folder(folder), hint="give the folder with the component's own files")
    members = _find_files(folder)
    if "backbone.json" in members:
        raise BadBundle(f"{folder} is a whole bundle", hint=f"give the component's folder: {folder}/{name}")
    paths = {f"{name}/{inner}": file for inner, file in members.items()}
    _refuse_pickles(paths)
    if {_component_of(path)[0] for path in paths} != {name}:
        raise BadBundle(
            f"{folder} can't be the component {name}", hint=f"components: adapters/<target>, {', '.join(_TOP[1:])}"
        )
    try:
        component = _read_component(name, members, None)
        offers = _documents(members) if name == CONFIG else {}
    except OSError as error:
        raise BadBundle(f"{error.filename} can't be read: {error.strerror}") from error
    files = file_entries(paths, progress)
    return ComponentFiles(name, component, files, str(folder), {"source": str(folder)}, offers=offers), paths


def _documents(members: dict[str, LocalFile]) -> dict[str, str]:
    """The digest of each JSON file of a configuration, by its name; components may require them."""
    names = [inner for inner in members if inner.endswith(".json") and "/" not in inner]
    return {inner.removesuffix(".json"): canonical.digest(_read_json(members, inner)) for inner in names}


def file_entries(paths: Mapping[str, LocalFile], progress: Progress = no_progress) -> tuple[FileEntry, ...]:
    """The manifest entries of local files, given by their paths in a version.

    Raises:
        BadBundle: a file can't be read, changes while it is read, or has a path that is not allowed; or a link
            leads to it.
    """
    try:
        return tuple(in_parallel(lambda item: _entry(*item, progress), sorted(paths.items())))
    except ValidationError as error:
        raise BadBundle(f"a file can't become part of a version: {first_problem(error)}") from error
    except OSError as error:
        raise BadBundle(f"{error.filename} can't be read: {error.strerror}") from error


def _entry(path: str, file: LocalFile, progress: Progress) -> FileEntry:
    """The entry of one file. Size and digest are those of the bytes that were read."""
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as opened:
        before = os.fstat(opened.fileno())
        _check_size(path, before.st_size)
        while size <= before.st_size and (chunk := opened.read(_CHUNK)):
            digest.update(chunk)
            size += len(chunk)
            progress(len(chunk))
        after = os.fstat(opened.fileno())
    if (before.st_size, before.st_mtime_ns) != (size, after.st_mtime_ns) or size != after.st_size:
        raise BadBundle(
            f"{file} changed while it was read",
            hint="run it again when no process writes it; exclude log files of a project in .gitignore",
        )
    mode: Literal["0644", "0755"] = "0755" if after.st_mode & stat.S_IXUSR else "0644"
    return FileEntry(path=path, size=size, mode=mode, sha256=digest.hexdigest())


def _check_size(path: str, size: int) -> None:
    try:
        check_new_size(path, size)
    except ValueError as error:
        raise BadBundle(f"a file can't become part of a version: {error}", hint="leave it out") from error


def _find_files(folder: Path) -> dict[str, LocalFile]:
    paths: dict[str, LocalFile] = {}
    try:
        source = SourceFolder(folder)
        for path, size in _walk(source, "", 0):
            paths[check_new_path(path)] = source.file(path)
            check_new_size(path, size)
            if len(paths) > MAX_FILES:
                raise BadBundle(f"{folder} has more than {MAX_FILES} files")
        check_unique(sorted(paths))
    except ValueError as error:
        raise BadBundle(f"{folder} can't become a version: {error}", hint="rename or remove that file") from error
    except OSError as error:
        raise BadBundle(f"{error.filename} can't be read: {error.strerror}") from error
    return paths


def _refuse_pickles(paths: Iterable[str]) -> None:
    """A version's weights are safetensors. Files of a project are not loaded, so they may be anything."""
    pickles = [path for path in paths if may_be_pickle(path) and not path.startswith(_PROJECT)]
    if pickles:
        more = f" and {len(pickles) - _SHOWN} more" if len(pickles) > _SHOWN else ""
        raise BadBundle(
            f"a bundle can't have files that may contain code: {', '.join(pickles[:_SHOWN])}{more}",
            hint="save tensors as safetensors; files that nothing loads can be in project/",
        )


def _walk(folder: SourceFolder, here: str, depth: int) -> Iterator[tuple[str, int]]:
    """The files below a folder and their sizes; `here` is its path, with a `/` at the end."""
    if depth > _MAX_DEPTH:
        raise BadBundle(f"{folder.path / here} is nested more than {_MAX_DEPTH} folders deep")
    for name, info in folder.entries(here):
        path = here + name
        if stat.S_ISLNK(info.st_mode):
            raise BadBundle(
                f"{folder.file(path)} is a link",
                hint="a version holds files only: replace the link by a copy of its target",
            )
        if stat.S_ISDIR(info.st_mode):
            yield from _walk(folder, f"{path}/", depth + 1)
        elif stat.S_ISREG(info.st_mode):
            yield path, info.st_size
        else:
            raise BadBundle(f"{folder.file(path)} is neither a file nor a folder")


def _read_backbone(paths: dict[str, LocalFile]) -> BackboneRef:
    try:
        return BackboneRef.model_validate(_read_json(paths, "backbone.json"))
    except ValidationError as error:
        raise BadBundle(f"backbone.json does not follow the format: {first_problem(error)}") from error


def _read_components(paths: dict[str, LocalFile], backbone: BackboneRef) -> dict[str, Component]:
    members: dict[str, dict[str, LocalFile]] = {}
    for path, file in paths.items():
        name, inner = _component_of(path)
        members.setdefault(name, {})[inner] = file
    if not any(name.startswith("adapters/") for name in members):
        raise BadBundle("the bundle has no adapters/<target>/ folder", hint="a bundle has at least one adapter")
    return {name: _read_component(name, inner, backbone) for name, inner in sorted(members.items())}


def _read_component(name: str, members: dict[str, LocalFile], backbone: BackboneRef | None) -> Component:
    """Read one component; if a backbone is given, check that the component was made for it."""
    if name.startswith("adapters/"):
        check_new_target(name.removeprefix("adapters/"))
        if not any(inner.endswith(".safetensors") for inner in members):
            raise BadBundle(f"{name} has no .safetensors file")
    requires: dict[str, Any] = {}
    if "component.json" in members and name != "project":
        requires = _read_json(members, "component.json", f"{name}/component.json").get("requires", {})
    try:
        component = Component(weights_sha256=weights_sha256(members), requires=requires)
    except BadWeights as error:
        raise BadWeights(f"{name}/{error}", hint="save the file again; nothing was created") from error
    except ValidationError as error:
        raise BadBundle(f"{name}/component.json does not follow the format: {first_problem(error)}") from error
    if backbone and component.requires.get("backbone", backbone.sha256) != backbone.sha256:
        raise BadBundle(
            f"{name} was made for another backbone: {component.requires['backbone'][:12]}, not {backbone.sha256[:12]}"
        )
    return component


def _component_of(path: str) -> tuple[str, str]:
    """The component that a file belongs to, and its path inside it."""
    if path == "backbone.json":
        return "backbone", path
    top, _, rest = path.partition("/")
    if top not in _TOP or not rest:
        raise BadBundle(
            f"{path} is not allowed in a bundle", hint=f"a bundle has backbone.json and {', '.join(_TOP)}/…"
        )
    if top != "adapters":
        return top, rest
    target, _, inner = rest.partition("/")
    if not inner:
        raise BadBundle(f"{path} is not in a folder adapters/<target>/")
    return f"adapters/{target}", inner


def _read_json(paths: dict[str, LocalFile], path: str, what: str = "") -> dict[str, Any]:
    what = what or path
    if path not in paths:
        raise BadBundle(f"{what} is missing", hint="`ulora create --help` describes a bundle")
    try:
        return canonical.decode(canonical.read_file(paths[path], what), what)
    except OSError as error:
        raise BadBundle(f"{what} can't be read: {error.strerror}") from error
    except BadManifest as error:
        raise BadBundle(str(error)) from error


@dataclass(frozen=True)
class ReleaseNotes:
    """A person's description of a version. It is stored in the manifest and does not change `content_sha256`."""

    description: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    breaking_changes: tuple[str, ...] = ()
    backward_compatibility: str = ""
    testing_instructions: str = ""


def describe(
    model: str,
    version: VersionName,
    bundle: Bundle,
    *,
    source: Path,
    release_notes: ReleaseNotes,
    parent: Manifest | None,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> Manifest:
    """The manifest of a bundle: its content, its release notes, and how it differs from its parent.

    `facts` are added to its provenance.

    Raises:
        BadInput: the release notes exceed a limit.
    """
    now = {file.path: file for file in bundle.files}
    before = {file.path: file for file in parent.files} if parent else {}
    modified = [path for path, file in now.items() if path in before and file != before[path]]
    fields = dict(
        model=model,
        version=str(version),
        flavor=bundle.flavor,
        backbone=bundle.backbone,
        components=bundle.components,
        files=bundle.files,
        timestamp=clock.timestamp("seconds"),
        source=str(source),
        description=release_notes.description,
        changes=release_notes.changes,
        parent=Parent(version=parent.version, content_sha256=parent.content_sha256) if parent else None,
        files_added=sorted(now.keys() - before.keys()) if parent else [],
        files_modified=modified,
        files_removed=sorted(before.keys() - now.keys()),
        breaking_changes=release_notes.breaking_changes,
        backward_compatibility=release_notes.backward_compatibility,
        testing_instructions=release_notes.testing_instructions,
        provenance={**provenance.collect(source), **facts},
    )
    try:
        return Manifest.make(**fields)
    except BadManifest as error:  # the bundle was checked before, so the release notes are wrong
        raise BadInput(f"the release notes of {version} are invalid: {error}") from error

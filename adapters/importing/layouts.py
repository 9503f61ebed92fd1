"""Find the adapters in a folder, their layout and their targets, by the files in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.bundle import ADAPTER_CONFIG, BACKBONE
from adapters.importing.untrusted_files import read_json
from registry.errors import BadBundle, BadInput, no_folder
from registry.names import MAX_TARGET, check_new_target
from registry.versions.manifest import MAX_FILES, check_new_path

META = "adapter_meta.json"
CLASSIFIER = "classifier.pth"
FUSION = "fusion.pth"
OOD_COMPONENTS = "ood_components.pt"
OOD_STATE = "ood_state"
INNER = "adapter"
"""In the layout of phases, the PEFT folder inside an adapter's folder."""
VERSION = "version.json"

PHASES, RELEASE, PEFT = "phases", "release", "peft"
LAYOUTS = {
    PHASES: "models/phase*_adapter/ trees: adapter/, classifier.pth, ood_components.pt, adapter_meta.json",
    RELEASE: "<crop>/<part>/continual_sd_lora_adapter/ trees: a PEFT folder with classifier.pth and fusion.pth",
    PEFT: "plain PEFT folders: adapter_config.json with adapter_model.safetensors or .bin",
}
"""The layouts by the names that messages use, and their description."""

UNDERSTOOD = (
    "the known layouts are: a bundle (backbone.json, adapters/<target>/…), models:/NAME/VERSION, "
    + "; ".join(LAYOUTS.values())
    + "; and versions/<v>/ or backups/<v>/ folders that hold one of these beside their version.json"
)

MAX_DEPTH = 12
_PHASE = re.compile(r"phase[_-]?(\d)", re.IGNORECASE)
_CONTAINERS = {
    "adapter", "adapter_export", "adapters", "artifacts", "checkpoints", "continual_sd_lora_adapter", "lora", "model",
    "models", "outputs", "peft",
}  # fmt: skip
"""Names of folders that are not the name of a target."""
_NOT_PROJECT = {".git", "__pycache__", ".venv", ".pytest_cache", ".ipynb_checkpoints"}


@dataclass(frozen=True)
class AdapterFolder:
    """One adapter's folder.

    Attributes:
        target: its target.
        folder: its path.
        layout: a key of `LAYOUTS`.
        meta: its `adapter_meta.json` without `ood_state`, which may be large; empty if there is none.
    """

    target: str
    folder: Path
    layout: str
    meta: Mapping[str, Any]

    @property
    def peft(self) -> Path:
        """Its PEFT folder."""
        return self.folder / INNER if self.layout == PHASES else self.folder


@dataclass(frozen=True)
class FoundAdapters:
    """The content of a folder.

    Attributes:
        layout: a key of `LAYOUTS`.
        adapters: the adapters to import, one per target, sorted.
        left_out: folders of earlier or untrained phases, which are not imported.
        version: the content of an old version folder's `version.json`, None without one.
        project: files of an old version folder outside its adapters, by their paths in it.
        files: all files, by their paths in it.
        adapter_folders: the folders of all adapters, with those that are left out.
    """

    layout: str
    adapters: tuple[AdapterFolder, ...]
    left_out: tuple[Path, ...]
    version: Mapping[str, Any] | None
    project: Mapping[str, Path]
    files: Mapping[str, Path]
    adapter_folders: frozenset[Path]

    def owner(self, path: str) -> Path | None:
        """The adapter's folder that contains a file, None for a file outside of all."""
        return next((folder for folder in self.files[path].parents if folder in self.adapter_folders), None)

    @property
    def beside(self) -> tuple[str, ...]:
        """Files outside of all adapters that do not belong to the project."""
        skipped = {VERSION} if self.version is not None else set()
        return tuple(p for p in self.files if not self.owner(p) and p not in self.project and p not in skipped)


def find_adapters(source: Path, target: str | None = None) -> FoundAdapters:
    """Find the adapters in a folder.

    Args:
        target: the name of the only target in it, if its files and folders do not name it.

    Raises:
        BadBundle: when it is not a folder, has symbolic links, no known layout, or several layouts.
        BadInput: when a target's name is not allowed, or is needed.
    """
    if not source.is_dir():
        raise BadBundle(no_folder(source), hint=UNDERSTOOD)
    files = dict(_files(source))
    if bundles := [path for path in files if Path(path).name == BACKBONE]:
        raise BadBundle(
            f"{source} contains a bundle, but is not one itself", hint=f"give --from {(source / bundles[0]).parent}"
        )
    folders = {folder: layout for folder in _folders(source, files) if (layout := _layout_of(folder))}
    inner = {folder / INNER for folder, layout in folders.items() if layout == PHASES}
    folders = {folder: layout for folder, layout in folders.items() if folder not in inner}
    layouts = sorted(set(folders.values()))
    if len(layouts) != 1:
        what = f"adapters of different layouts ({', '.join(layouts)})" if layouts else "no adapter in a known layout"
        raise BadBundle(f"{source} contains {what}", hint=UNDERSTOOD)
    metas = {folder: _meta(folder) for folder in folders}  # read once, because they may be large
    chosen, left_out = _choose(metas, layouts[0])
    only = target if len(chosen) == 1 else None
    adapters = [_adapter_folder(folder, layouts[0], source, only, metas[folder]) for folder in chosen]
    _check_targets(adapters, target)
    version = read_json(source / VERSION) if VERSION in files else None
    adapter_folders = frozenset(folders)
    project = {} if version is None else _project(files, adapter_folders)
    adapters.sort(key=lambda adapter: adapter.target)
    return FoundAdapters(layouts[0], tuple(adapters), left_out, version, project, files, adapter_folders)


def _files(source: Path) -> Iterator[tuple[str, Path]]:
    """All regular files below a folder by their paths in it. Symbolic links are refused, because they could lead out of
    it.
    """
    count = 0
    for place, folders, names in os.walk(source, followlinks=False, onerror=_refuse_unreadable):
        folders[:] = sorted(name for name in folders if name not in _NOT_PROJECT)
        here = Path(place)
        for name in [*folders, *sorted(names)]:
            if (here / name).is_symlink():
                raise BadBundle(
                    f"{here / name} is a symbolic link", hint="a version has regular files only: copy what it points to"
                )
        if len(here.relative_to(source).parts) > MAX_DEPTH:
            raise BadBundle(f"{here} is nested deeper than {MAX_DEPTH} folders")
        for name in sorted(names):
            count += 1
            if count > MAX_FILES:
                raise BadBundle(f"{source} contains more than {MAX_FILES} files")
            if not (here / name).is_file():
                raise BadBundle(f"{here / name} is not a regular file")
            path = (here / name).relative_to(source).as_posix()
            try:
                yield check_new_path(path), here / name
            except ValueError as error:
                raise BadBundle(f"{source} can't be imported: {error}", hint="rename that file") from error


def _refuse_unreadable(error: OSError) -> None:
    raise BadBundle(f"{error.filename} can't be read: {error.strerror}") from error


def _folders(source: Path, files: Mapping[str, Path]) -> set[Path]:
    """All folders that contain files, directly or in subfolders."""
    return {source / parent for path in files for parent in Path(path).parents}


def _layout_of(folder: Path) -> str | None:
    if (folder / INNER / ADAPTER_CONFIG).is_file() and _has_any(folder, CLASSIFIER, META, OOD_COMPONENTS):
        return PHASES
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    return RELEASE if _has_any(folder, CLASSIFIER, FUSION) else PEFT


def _has_any(folder: Path, *names: str) -> bool:
    return any((folder / name).is_file() for name in names)


def _choose(metas: Mapping[Path, Mapping[str, Any]], layout: str) -> tuple[list[Path], tuple[Path, ...]]:
    """Of the phases of one target, the last trained one; of other layouts, all but checkpoints inside an adapter."""
    folders = sorted(metas)
    if layout != PHASES:
        nested = tuple(folder for folder in folders if any(parent in folders for parent in folder.parents))
        return [folder for folder in folders if folder not in nested], nested
    by_target: dict[Path, list[tuple[int, Path]]] = {}
    for folder in folders:
        phase = _PHASE.match(folder.name)
        by_target.setdefault(folder.parent if phase else folder, []).append((int(phase[1]) if phase else 0, folder))
    chosen = []
    for place, phases in sorted(by_target.items()):
        trained = [item for item in phases if _is_trained(item[1], metas[item[1]])]
        if not trained:
            raise BadBundle(f"{place} has no trained phase", hint="nothing was created")
        chosen.append(max(trained)[1])
    return chosen, tuple(folder for folder in folders if folder not in chosen)


def _is_trained(folder: Path, meta: Mapping[str, Any]) -> bool:
    return (folder / CLASSIFIER).is_file() and meta.get("is_trained") is not False


def read_meta(folder: Path) -> dict[str, Any]:
    """Read an adapter's whole `adapter_meta.json`, empty if there is none.

    Raises:
        BadBundle: when it is malformed.
    """
    place = meta_of(folder)
    return read_json(place) if place else {}


def meta_of(folder: Path) -> Path | None:
    """The path of an adapter's `adapter_meta.json`, None if there is none."""
    return next((place for place in (folder / META, folder / INNER / META) if place.is_file()), None)


def _meta(folder: Path) -> Mapping[str, Any]:
    return {name: value for name, value in read_meta(folder).items() if name != OOD_STATE}


def _adapter_folder(
    folder: Path, layout: str, source: Path, target: str | None, meta: Mapping[str, Any]
) -> AdapterFolder:
    name = target or _target_of(folder, layout, source, meta)
    try:
        return AdapterFolder(check_new_target(name), folder, layout, meta)
    except BadInput as error:
        length = f", {len(name)} characters of at most {MAX_TARGET}" if len(name) > MAX_TARGET else ""
        raise BadInput(
            f"{folder} has a target whose name is unknown or not allowed: {name[:80]!r}{length}",
            hint="give it with --target, e.g. --target tomato__leaf, and import one folder at a time",
        ) from error


def _target_of(folder: Path, layout: str, source: Path, meta: Mapping[str, Any]) -> str:
    """The target that the files, or else the folders, of an adapter name."""
    crop, part = (meta.get(name) for name in ("crop_name", "part_name"))
    if isinstance(crop, str) and crop:
        return f"{crop}__{part}".lower() if isinstance(part, str) and part else crop.lower()
    inside = [part.lower() for part in folder.resolve().parts[len(source.resolve().parts) :]]
    around = [part.lower() for part in source.resolve().parts]
    while inside and (inside[-1] in _CONTAINERS or _PHASE.match(inside[-1])):
        inside.pop()
    inside = inside[inside.index("models") + 1 :] if "models" in inside else inside
    inside = inside[inside.index("adapters") + 1 :] if "adapters" in inside else inside
    if inside:
        return "__".join(inside[-2:] if layout == RELEASE else inside[-1:])
    while around and (around[-1] in _CONTAINERS or _PHASE.match(around[-1])):
        around.pop()
    if layout == RELEASE and folder.resolve() == source.resolve():  # a single adapter: <crop>/<part>/<folder>
        return "__".join(around[-2:])
    return around[-1] if around else ""


def _check_targets(adapters: Sequence[AdapterFolder], target: str | None) -> None:
    if target and len(adapters) > 1:
        raise BadInput(
            f"--target {target} names one target, but there are {len(adapters)}: "
            + ", ".join(adapter.target for adapter in adapters)[:200]
        )
    seen: dict[str, Path] = {}
    for adapter in adapters:
        if adapter.target in seen:
            raise BadBundle(f"{seen[adapter.target]} and {adapter.folder} are both for the target {adapter.target}")
        seen[adapter.target] = adapter.folder


def _project(files: Mapping[str, Path], adapter_folders: frozenset[Path]) -> dict[str, Path]:
    """The files of an old version folder outside its adapters."""
    return {
        path: place
        for path, place in files.items()
        if path != VERSION and not adapter_folders.intersection(place.parents)
    }

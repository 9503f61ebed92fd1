"""Keep the files of a source that are not converted: copy them into the bundle, or list them as left out."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from adapters import bundle as layout
from adapters.bundle import ADAPTER_CONFIG, ADAPTER_WEIGHTS, COMPONENT, HEAD, OOD
from adapters.importing.layouts import VERSION, AdapterFolder, FoundAdapters
from adapters.importing.preprocessing import FILES as PREPROCESSING_FILES
from registry.errors import BadBundle
from registry.versions.manifest import check_new_size
from registry.versions.weights import may_be_pickle

SOURCE_META = "source_meta.json"
SOURCE_TENSORS = "source.safetensors"
PROJECT = "project"
CONFIG_SOURCE = "config/source"
"""The folder for files that state the preprocessing of the whole source."""

_RESERVED = {
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, COMPONENT, SOURCE_META, SOURCE_TENSORS, layout.GOLDEN, "exits", "exits.json",
    "source",
    *(f"{name}.{kind}" for name in (HEAD, OOD) for kind in ("json", "safetensors")),
}  # fmt: skip


def copy_rest(adapter: AdapterFolder, read: Collection[Path], place: Path, found: FoundAdapters) -> list[str]:
    """Copy files of an adapter's folder that were not converted.

    Args:
        read: the files that were.
        place: the adapter's folder in the bundle.

    Returns:
        The paths of those that are left out.

    Raises:
        BadBundle: when one can't be copied.
    """
    left_out = []
    for path, file in found.files.items():
        if found.owner(path) != adapter.folder:
            continue
        inner = file.relative_to(adapter.folder).as_posix()
        if file in read or (found.version is not None and path == VERSION):
            continue
        if may_be_pickle(file.name):
            left_out.append(path)
        else:
            _copy(file, place / (f"source/{inner}" if inner.split("/")[0] in _RESERVED else inner))
    return left_out


def copy_beside(found: FoundAdapters, bundle: Path) -> list[str]:
    """Copy the files that state the preprocessing of the whole source; returns the paths of all others outside of
    adapters.

    Raises:
        BadBundle: when one can't be copied.
    """
    stated = [path for path in found.beside if PurePosixPath(path).name in PREPROCESSING_FILES]
    for path in stated:
        _copy(found.files[path], bundle / CONFIG_SOURCE / path)
    return [path for path in found.beside if path not in stated]


def copy_project(project: Mapping[str, Path], bundle: Path) -> list[str]:
    """Copy the source tree of the project, without pickles; returns the paths of those.

    Raises:
        BadBundle: when a file can't be copied.
    """
    left_out = []
    for path, file in project.items():
        if may_be_pickle(file.name):
            left_out.append(path)
        else:
            _copy(file, bundle / PROJECT / path)
    return left_out


def _copy(file: Path, place: Path) -> None:
    try:
        check_new_size(file.name, file.stat().st_size)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place, follow_symlinks=False)
        place.chmod(0o755 if file.stat().st_mode & stat.S_IXUSR else 0o644)
    except ValueError as error:
        raise BadBundle(f"{file} can't be copied: {error}", hint="remove it; nothing was created") from error
    except OSError as error:
        raise BadBundle(f"{file} can't be copied: {error.strerror or error}", hint="nothing was created") from error

"""What differs between two versions' manifests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from registry.versions.manifest import Component, FileEntry, Manifest

Change: TypeAlias = Literal["added", "removed", "changed"]
_Part = TypeVar("_Part")


@dataclass(frozen=True)
class FileChange:
    """A file that differs. `before` and `after` are sizes in bytes, None where there is no such file."""

    path: str
    change: Change
    before: int | None
    after: int | None


@dataclass(frozen=True)
class ComponentChange:
    """A component that differs.

    Attributes:
        weights: whether its weights differ.
        requires: which of its requirements differ, e.g. `labels`.
    """

    name: str
    change: Change
    weights: bool
    requires: tuple[str, ...] = ()


@dataclass(frozen=True)
class ManifestChanges:
    """What differs between two manifests; `facts` are other fields by name, with both values."""

    components: tuple[ComponentChange, ...]
    files: tuple[FileChange, ...]
    unchanged_files: int
    facts: Mapping[str, tuple[str, str]]


def changes(older: Manifest, newer: Manifest) -> ManifestChanges:
    """What differs between the manifests of two versions."""
    files = _changed({file.path: file for file in older.files}, {file.path: file for file in newer.files})
    components = _changed(older.components, newer.components)
    return ManifestChanges(
        components=tuple(_component(name, *both) for name, both in components.items()),
        files=tuple(_file(path, *both) for path, both in files.items() if _content(both[0]) != _content(both[1])),
        unchanged_files=len({file.path for file in newer.files} - files.keys()),
        facts=_facts(older, newer),
    )


def _changed(older: Mapping[str, _Part], newer: Mapping[str, _Part]) -> dict[str, tuple[_Part | None, _Part | None]]:
    """What is not the same in both, by name."""
    names = sorted({*older, *newer})
    return {name: (older.get(name), newer.get(name)) for name in names if older.get(name) != newer.get(name)}


def _content(file: FileEntry | None) -> tuple[str, str] | None:
    return (file.sha256, file.mode) if file else None


def _kind(older: object | None, newer: object | None) -> Change:
    return "added" if older is None else "removed" if newer is None else "changed"


def _file(path: str, older: FileEntry | None, newer: FileEntry | None) -> FileChange:
    return FileChange(path, _kind(older, newer), older.size if older else None, newer.size if newer else None)


def _component(name: str, older: Component | None, newer: Component | None) -> ComponentChange:
    before, after = older or Component(), newer or Component()
    return ComponentChange(
        name, _kind(older, newer), before.weights_sha256 != after.weights_sha256,
        tuple(_changed(before.requires, after.requires)),
    )  # fmt: skip


def _facts(older: Manifest, newer: Manifest) -> dict[str, tuple[str, str]]:
    def told(manifest: Manifest) -> dict[str, str]:
        backbone = manifest.backbone
        return {
            "flavor": manifest.flavor,
            "backbone": f"{backbone.name} ({backbone.sha256[:12]})" if backbone else "",
            "family": backbone.family if backbone else "",
            "parent": manifest.parent.version if manifest.parent else "",
            "breaking changes": "; ".join(manifest.breaking_changes),
            "description": manifest.description,
        }

    before, after = told(older), told(newer)
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}

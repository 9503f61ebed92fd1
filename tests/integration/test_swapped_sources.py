"""Somebody who may write in a source folder puts links there while `create` reads: nothing from elsewhere gets in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.api import Registry
from registry.catalog.artifact_names import write_bundle as write_artifacts
from registry.errors import BadBundle
from registry.names import VersionName
from registry.tree import snapshot
from registry.usecases import create
from registry.usecases.options import CreateOptions
from registry.versions import bundle as reading
from registry.versions.bundle import ReleaseNotes, describe, read_bundle
from tests.support.other_adapter_layouts import write_peft
from tests.support.registries import listing, open_registry, small_bundle
from tests.support.working_trees import swap_for_link, write_tree

INSIDE, FOREIGN = {"a.txt": "a", "z/x.txt": "inside", "z/y/x.txt": "inside"}, {"x.txt": "foreign", "y/x.txt": "foreign"}


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    registry.create("v0.1.0", small_bundle(tmp_path / "parent"), offline=True)
    write_tree(tmp_path / "elsewhere", FOREIGN)
    return registry


def source(place: Path) -> dict[str, Any]:
    return {"source": None, "options": CreateOptions(project=write_tree(place, INSIDE))}


def bundle(place: Path) -> dict[str, Any]:
    write_tree(small_bundle(place.parent, seed=1) / "project", INSIDE)
    return {"source": place.parent}


def component(place: Path) -> dict[str, Any]:
    write_tree(place, INSIDE)
    return {"source": None, "options": CreateOptions(parent="v0.1.0", components={"project": place})}


KINDS = {"--source": source, "--from": bundle, "--set": component}
BEFORE = {
    "it is hashed": [(snapshot, "file_entries"), (reading, "file_entries")],
    "it is uploaded": [(create, "describe")],
}


def before_calls(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, act: Callable[[], None]) -> None:
    """Let something happen each time that a function is about to be called."""
    function = getattr(module, name)

    def acting(*args: Any, **more: Any) -> Any:
        act()
        return function(*args, **more)

    monkeypatch.setattr(module, name, acting)


@pytest.mark.parametrize("when", BEFORE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_swapped_for_a_link_creates_nothing(
    kind: str, when: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "source/project"
    given = KINDS[kind](place)
    there = listing(registry)
    swapped: list[Path] = []

    def swap() -> None:
        if not swapped:
            swapped.append(swap_for_link(place / "z", tmp_path / "elsewhere"))

    for module, name in BEFORE[when]:
        before_calls(monkeypatch, module, name, swap)
    with pytest.raises(BadBundle, match="project/z is a symbolic link"):
        registry.create("v1.0.0", **given, offline=True)
    assert swapped
    assert registry.bindings.find(VersionName.parse("v1.0.0")) is None
    gained = listing(registry).keys() - there.keys()
    assert not any(registry.store.get(key).body == b"foreign" for key in gained)


def test_mlflow_gets_no_file_through_a_link(tmp_path: Path) -> None:
    place = write_tree(small_bundle(tmp_path / "bundle") / "project", INSIDE)
    write_tree(tmp_path / "elsewhere", FOREIGN)
    read = read_bundle(tmp_path / "bundle")
    manifest = describe(
        "m", VersionName(1, 0, 0), read, source=tmp_path, release_notes=ReleaseNotes(), parent=None
    )  # fmt: skip
    write_artifacts(manifest, read.paths, tmp_path / "whole")
    assert (tmp_path / "whole/project/z/x.txt").samefile(place / "z/x.txt"), "no bytes are copied on one file system"
    swap_for_link(place / "z", tmp_path / "elsewhere")
    with pytest.raises(BadBundle, match="project/z is a symbolic link"):
        write_artifacts(manifest, read.paths, tmp_path / "artifacts")


def test_an_import_refuses_what_was_swapped_and_put_back(registry: Registry, tmp_path: Path) -> None:
    place, foreign = tmp_path / "source/maize", tmp_path / "foreign/maize"
    write_peft(place)
    write_peft(foreign)
    aside: list[Path] = []

    def say(line: str) -> None:
        if line.startswith("converting"):
            aside.append(swap_for_link(place, foreign))
        elif line.startswith("backbone"):
            place.unlink()
            aside[0].rename(place)

    with pytest.raises(BadBundle, match="source changed while it was read"):
        registry.create("v1.0.0", tmp_path / "source", offline=True, say=say)
    assert aside
    assert registry.bindings.find(VersionName.parse("v1.0.0")) is None

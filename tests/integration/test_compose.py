"""A version composed of another one and a component on disk: uploads, refusals, predictions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from registry.answers import Created
from registry.api import Registry
from registry.channels.channel import RollbackOptions
from registry.errors import BadBundle, BadInput, VersionExists, VersionNotFound
from registry.names import MAX_SUFFIX, VersionName
from registry.store import layout
from registry.usecases.options import CreateOptions
from registry.versions.compose import component_files, composed_name
from tests.support.bundles import add_goldens, noise, write_bundle
from tests.support.registries import listing, open_registry
from tests.support.run_ulora import complains, ulora
from tests.support.working_trees import write_tree

LOW, MID = "adapters/low", "adapters/mid"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two bundles of one shape with goldens, and one on another backbone."""
    folder = tmp_path_factory.mktemp("bundles")
    targets = ("low", "mid")
    return {
        "first": add_goldens(write_bundle(folder / "first", seed=1, targets=targets)),
        "second": add_goldens(write_bundle(folder / "second", seed=2, targets=targets)),
        "dinov2": write_bundle(folder / "dinov2", seed=3, targets=targets, family="dinov2"),
    }


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, bundles: dict[str, Path]) -> Registry:
    """A registry with v1.0.0."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    registry.create("v1.0.0", bundles["first"], offline=True)
    return registry


def compose(
    registry: Registry, version: str, parent: str, components: dict[str, Path], dry_run: bool = False, **more: Any
) -> Created:
    """Create a version of another one, with these components replaced."""
    options = CreateOptions(parent=parent, components=components, **more)
    return registry.create(version, options=options, offline=True, dry_run=dry_run)


def test_only_the_component_is_uploaded(registry: Registry, bundles: dict[str, Path]) -> None:
    low = bundles["second"] / LOW
    created = compose(registry, "v1.1.0", "v1.0.0", {LOW: low})
    first, second = registry.manifest("v1.0.0"), registry.manifest("v1.1.0")
    changed = {
        file.sha256: file.size for file in component_files(second, LOW) if file not in component_files(first, LOW)
    }
    assert created.uploaded == sum(changed.values())
    assert component_files(second, MID) == component_files(first, MID)
    assert second.parent
    assert (second.parent.version, second.provenance["composed"]["components"]) == (
        "v1.0.0",
        {LOW: {"source": str(low)}},
    )
    assert second.files_modified
    assert all(path.startswith(f"{LOW}/") for path in second.files_modified)
    registry.create("v2.0.0", bundles["second"], offline=True)
    whole = {name: registry.load(name) for name in ("v1.0.0", "v1.1.0", "v2.0.0")}
    answers = {
        (name, target): loaded.predict([noise(7)], target=[target])[0].probabilities
        for name, loaded in whole.items()
        for target in ("low", "mid")
    }
    assert answers["v1.1.0", "low"] == answers["v2.0.0", "low"] != answers["v1.0.0", "low"]
    assert answers["v1.1.0", "mid"] == answers["v1.0.0", "mid"] != answers["v2.0.0", "mid"]


@pytest.mark.acceptance
def test_a_partial_rollback_of_real_adapters_loads_and_verifies(registry: Registry, bundles: dict[str, Path]) -> None:
    registry.create("v2.0.0", bundles["second"], offline=True)
    for name in ("v1.0.0", "v2.0.0"):
        registry.promote(name, "production")
    composed = registry.rollback(only=[LOW]).version
    assert registry.verify(composed, read_data=True).ok
    loaded = registry.load(composed)  # self-tested: each component gives what it gave when it was made
    whole = {name: registry.load(name) for name in ("v1.0.0", "v2.0.0")}
    for target, origin in (("low", "v1.0.0"), ("mid", "v2.0.0")):
        mine, theirs = (each.predict([noise(7)], target=[target])[0] for each in (loaded, whole[origin]))
        assert mine.probabilities == theirs.probabilities
    assert registry.rollback(options=RollbackOptions(leave=composed)).version == "v1.0.0"


@pytest.mark.acceptance
def test_another_backbone_s_adapter_is_refused(registry: Registry, bundles: dict[str, Path], tmp_path: Path) -> None:
    before = listing(registry)
    with pytest.raises(BadInput, match=r"was made for another backbone .* v1\.0\.0 runs on"):
        compose(registry, "v1.1.0", "v1.0.0", {LOW: bundles["dinov2"] / LOW})
    registry.create("v2.0.0", bundles["dinov2"], offline=True)
    for name in ("v1.0.0", "v2.0.0"):
        registry.promote(name, "production")
    with pytest.raises(BadInput, match=r"of v1\.0\.0 was made for another backbone .* v2\.0\.0 runs on dinov2-tiny"):
        registry.rollback(only=[LOW])
    assert layout.version(registry.model, "v1.1.0") not in {*before, *listing(registry)}


def test_another_preprocessing_is_refused_on_disk_too(
    registry: Registry, bundles: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("preprocessing.json", "inference.json"):
        document = json.loads((bundles["first"] / "config" / name).read_bytes())
        (tmp_path / name).write_text(json.dumps(document | ({"mean": [0, 0, 0]} if name[0] == "p" else {})))
    config = tmp_path / "config"
    config.mkdir()
    (tmp_path / "inference.json").rename(config / "inference.json")
    assert compose(registry, "v1.1.0", "v1.0.0", {"config": config}, dry_run=True).is_new
    (tmp_path / "preprocessing.json").rename(config / "preprocessing.json")
    with pytest.raises(BadInput, match=r"adapters/low of v1\.0\.0 requires another preprocessing"):
        compose(registry, "v1.1.0", "v1.0.0", {"config": config})


def test_a_composed_project_is_read_like_a_snapshot(
    registry: Registry, bundles: dict[str, Path], tmp_path: Path
) -> None:
    content = {"a.py": "a", "a.log": "l", ".gitignore": "*.log", ".env": "TOKEN=x", "__pycache__/a": "c", ".git/x": "g"}
    project = write_tree(tmp_path / "project", content)
    (project / "data").symlink_to("elsewhere")
    parts = {"project": project}
    with pytest.raises(BadInput, match=r"credentials.*: \.env"):
        compose(registry, "v1.1.0", "v1.0.0", parts)
    compose(registry, "v1.1.0", "v1.0.0", parts, allow_secrets=(".env",))
    made = registry.manifest("v1.1.0")
    assert [file.path for file in component_files(made, "project")] == [
        f"project/{name}" for name in (".env", ".gitignore", "a.py")
    ]
    assert made.provenance["composed"]["components"]["project"]["links"] == {"data": "elsewhere"}
    bundle = Path(shutil.copytree(bundles["first"], tmp_path / "bundle"))
    write_tree(bundle / "project", {".env": "TOKEN=x"})
    with pytest.raises(BadInput, match=r"credentials.*: \.env"):
        registry.create("v2.0.0", bundle, offline=True, dry_run=True)
    assert registry.create("v2.0.0", bundle, CreateOptions(allow_secrets=(".env",)), offline=True, dry_run=True).is_new


def test_what_can_t_be_a_component_is_refused(registry: Registry, bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, place, says in [
        ("adapters/low", tmp_path / "missing", "no such folder"),
        ("adapters/low", tmp_path / "empty", "can't be the component adapters/low"),
        ("adapters/low", bundles["first"], "whole bundle"),
        ("weights", bundles["first"] / LOW, "is not allowed in a bundle"),
        ("adapters/../low", bundles["first"] / LOW, "can't be"),
        ("adapters/low/exits", bundles["first"] / LOW, "can't be"),
    ]:
        with pytest.raises(BadBundle, match=says):
            compose(registry, "v1.1.0", "v1.0.0", {name: place})
    for name in ("backbone", "adapters/Low"):
        with pytest.raises(BadInput):
            compose(registry, "v1.1.0", "v1.0.0", {name: bundles["first"] / LOW})
    with pytest.raises(VersionNotFound):
        compose(registry, "v1.1.0", "v0.9.0", {LOW: bundles["first"] / LOW})
    with pytest.raises(VersionExists):
        compose(registry, "v1.0.0", "v1.0.0", {LOW: bundles["second"] / LOW})


def test_from_the_command_line(registry: Registry, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_MODEL", registry.model)
    words = ("create", "v1.1.0", "--parent", "v1.0.0", "--offline")
    assert "would create" in ulora(*words, "--set", f"{LOW}={bundles['second'] / LOW}", "--dry-run").out
    done = ulora(*words, "--set", f"{LOW}={bundles['second'] / LOW}", "--json")
    assert (done.code, done.document["is_new"]) == (0, True)
    complains(ulora(*words, "--set", "adapters/low"), 2, "COMPONENT=DIR")
    complains(ulora(*words, "--set", f"{LOW}=x", "--from", "y"), 2, "no other source")


@pytest.mark.parametrize("suffix", ["", "x", "dinov3", "a" * MAX_SUFFIX, "a" * 53 + ".-" + "b" * 9])
def test_a_composed_version_always_has_a_valid_name(suffix: str) -> None:
    name = composed_name(VersionName(5, 5, 4, suffix), "0123456789abcdef")
    assert VersionName.parse(str(name)) == name
    assert name.suffix.endswith("p01234567")
    assert str(composed_name(VersionName(5, 5, 4), "0123456789abcdef")) == "v5.5.4-p01234567"
    assert str(composed_name(VersionName(5, 5, 4, "x"), "0123456789abcdef")) == "v5.5.4-x.p01234567"

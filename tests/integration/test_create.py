"""`create` on a real store: what travels, what is bound, and that a refusal leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.bank import module_patterns
from registry.api import Registry
from registry.errors import (
    BadBundle,
    BadVersionName,
    BadWeights,
    CatalogUnreachable,
    ObjectNotFound,
    StoreUnreachable,
    UloraError,
    VersionExists,
    VersionNotFound,
)
from registry.usecases.options import CreateOptions
from registry.versions.bundle import ReleaseNotes
from tests.servers import proxy as faults
from tests.servers.proxy import Proxy
from tests.support.pattern_probes import PROBES, SECONDS, change
from tests.support.registries import file_of, listing, open_registry, small_bundle

WEIGHTS = "adapters/low/adapter_model.safetensors"
CONFIG = "adapters/low/adapter_config.json"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    return registry


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return small_bundle(tmp_path / "bundle")


def test_a_version_holds_every_file_of_its_bundle(registry: Registry, bundle: Path) -> None:
    release_notes = ReleaseNotes("new", {"head": ["bias"]}, ("labels moved",), "reads v1", "look at it")
    created = registry.create("v1.0.0", bundle, CreateOptions(release_notes=release_notes), offline=True)
    manifest = registry.manifest("v1.0.0")
    on_disk = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    assert [file.path for file in manifest.files] == sorted(on_disk)
    fetched = registry.blobs.fetch(manifest.files)
    assert all(fetched[file.sha256].read_bytes() == on_disk[file.path].read_bytes() for file in manifest.files)
    assert (created.is_new, created.files, created.size) == (True, len(on_disk), manifest.size)
    assert created.uploaded == sum({file.sha256: file.size for file in manifest.files}.values())
    assert (manifest.description, manifest.changes) == (release_notes.description, release_notes.changes)
    assert manifest.breaking_changes == release_notes.breaking_changes
    assert manifest.backward_compatibility == release_notes.backward_compatibility
    assert manifest.testing_instructions == release_notes.testing_instructions


def test_the_same_content_again_is_no_change(registry: Registry, bundle: Path) -> None:
    first = registry.create("v1.0.0", bundle, offline=True)
    before = listing(registry)
    again = registry.create("v1.0.0", bundle, offline=True)
    assert (again.is_new, again.uploaded, again.content_sha256) == (False, 0, first.content_sha256)
    assert listing(registry) == before


def test_a_taken_name_is_refused_and_nothing_is_uploaded(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    registry.create("v1.0.0", bundle, offline=True)
    before = listing(registry)
    with pytest.raises(VersionExists, match=r"v1\.0\.0 exists with other content"):
        registry.create("v1.0.0", small_bundle(tmp_path / "other", seed=1), offline=True)
    assert listing(registry) == before


def test_only_the_bytes_that_changed_travel(registry: Registry, bundle: Path) -> None:
    registry.create("v1.0.0", bundle, offline=True)
    (bundle / "config/note.json").write_text('{"a":1}')
    created = registry.create("v1.1.0", bundle, CreateOptions(parent="v1.0.0"), offline=True)
    assert created.uploaded == 7
    manifest = registry.manifest("v1.1.0")
    assert (manifest.files_added, manifest.files_modified, manifest.files_removed) == (("config/note.json",), (), ())


def test_patterns_are_stored_as_the_names_that_they_match(registry: Registry, bundle: Path) -> None:
    registry.create("v1.0.0", bundle, offline=True)
    change(bundle / CONFIG, {"target_modules": r".*\.(q|v)_proj", "alpha_pattern": {".*[0-9].*": 8}})
    said: list[str] = []
    created = registry.create("v1.1.0", bundle, offline=True, say=said.append)
    assert said == [f"{CONFIG}: its patterns are replaced by the names that they match"]
    planned = registry.create("v1.1.0", bundle, offline=True, dry_run=True)
    assert (planned.is_new, planned.content_sha256) == (False, created.content_sha256)
    component = CreateOptions(parent="v1.0.0", components={"adapters/low": bundle / "adapters/low"})
    registry.create("v1.1.1", None, component, offline=True)
    for name in ("v1.1.0", "v1.1.1"):
        (stored,) = registry.blobs.fetch([file_of(registry, name, CONFIG)]).values()
        document = json.loads(stored.read_bytes())
        assert (document["target_modules"], document["alpha_pattern"]) == (["q_proj", "v_proj"], {})


def test_a_pattern_that_takes_for_ever_leaves_nothing(
    registry: Registry, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_patterns, "MATCH_SECONDS", SECONDS)
    change(bundle / CONFIG, PROBES["optional letters"])
    with pytest.raises(BadWeights, match=f"{CONFIG}: target_modules .* can't be matched"):
        registry.create("v1.0.0", bundle, offline=True)
    assert registry.bindings.names() == []


def test_a_dry_run_says_what_it_would_be_and_writes_nothing(registry: Registry, bundle: Path) -> None:
    before = listing(registry)
    planned = registry.create("v1.0.0", bundle, dry_run=True)
    assert listing(registry) == before
    assert planned.content_sha256 == registry.create("v1.0.0", bundle, offline=True).content_sha256
    (bundle / "config/note.json").write_text("{}")
    with pytest.raises(VersionExists):
        registry.create("v1.0.0", bundle, dry_run=True)


def test_what_cannot_become_a_version_leaves_nothing(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    before = listing(registry)
    weights = (bundle / WEIGHTS).read_bytes()
    (bundle / WEIGHTS).write_bytes(weights[:-1])
    refusals: list[tuple[type[UloraError], str, Path, str | None]] = [
        (BadWeights, "v1.0.0", bundle, None),
        (BadVersionName, "1.0", bundle, None),
        (BadBundle, "v1.0.0", tmp_path / "missing", None),
        (VersionNotFound, "v1.0.0", small_bundle(tmp_path / "whole"), "v0.9.0"),
    ]
    for kind, name, source, parent in refusals:
        with pytest.raises(kind):
            registry.create(name, source, CreateOptions(parent=parent), offline=True)
    assert listing(registry) == before
    assert registry.versions() == []


def test_what_is_no_store_is_not_made_one_by_the_way(store_url: str, model: str, tmp_path: Path, bundle: Path) -> None:
    registry = open_registry(tmp_path, store_url, model)
    with pytest.raises(ObjectNotFound) as error:
        registry.create("v1.0.0", bundle, offline=True)
    assert "ulora store init" in error.value.hint
    assert listing(registry) == {}


def test_a_store_that_goes_away_in_the_middle_leaves_no_version(
    registry: Registry, bundle: Path, tmp_path: Path, proxy: Proxy
) -> None:
    distant = open_registry(tmp_path / "distant", registry.settings.store, registry.model, endpoint_url=proxy.url)
    proxy.next(faults.refuse, method="PUT", containing="/blobs/", times=10_000)
    with pytest.raises(StoreUnreachable):
        distant.create("v1.0.0", bundle, offline=True)
    assert registry.bindings.names() == []
    proxy.clear()
    assert distant.create("v1.0.0", bundle, offline=True).is_new
    assert registry.verify("v1.0.0", read_data=True).ok


def test_with_mlflow_down_nothing_is_done(registry: Registry, bundle: Path, tmp_path: Path, dead_address: str) -> None:
    other = open_registry(tmp_path / "other", registry.settings.store, registry.model, tracking_uri=dead_address)
    before = listing(registry)
    with pytest.raises(CatalogUnreachable, match=dead_address) as error:
        other.create("v1.0.0", bundle)
    assert "--offline" in error.value.hint
    assert listing(registry) == before


def test_without_a_tracking_server_the_caller_must_say_offline(registry: Registry, bundle: Path) -> None:
    with pytest.raises(CatalogUnreachable, match="no MLflow tracking server is set"):
        registry.create("v1.0.0", bundle)
    assert registry.versions() == []


def test_mlflow_gets_the_version_once(registry: Registry, bundle: Path, tmp_path: Path, tracking_uri: str) -> None:
    other = open_registry(tmp_path / "other", registry.settings.store, registry.model, tracking_uri=tracking_uri)
    first, again = (other.create("v1.0.0-dinov3", bundle) for _ in range(2))
    assert first.catalog_number == again.catalog_number == 1
    (found,) = other.catalog.versions(registry.model)
    assert found.tags["version"] == "v1.0.0-dinov3"
    assert found.identity["ulora.content_sha256"] == first.content_sha256
    manifest_sha256 = registry.bindings.get(registry.manifest("v1.0.0-dinov3").name).manifest_sha256
    assert found.identity["ulora.manifest_sha256"] == manifest_sha256
    assert [listed.catalog_number for listed in other.versions()] == [1]


def test_the_list_says_where_a_version_is_live_or_withdrawn(registry: Registry, tmp_path: Path) -> None:
    for name in ("v1.10.0", "v1.9.0"):
        options = CreateOptions(release_notes=ReleaseNotes(f"it is {name}"))
        registry.create(name, small_bundle(tmp_path / name, seed=len(name)), options, offline=True)
        registry.promote(name, "production")
    registry.promote("v1.10.0", "staging")
    registry.rollback()
    assert [(one.version, one.description, one.channels, one.withdrawn_from) for one in registry.versions()] == [
        ("v1.9.0", "it is v1.9.0", (), ("production",)),
        ("v1.10.0", "it is v1.10.0", ("staging", "production"), ()),
    ]

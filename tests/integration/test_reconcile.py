"""After an outage of MLflow `reconcile` shows what was created and promoted without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from registry.api import Registry
from registry.doctor import examine
from registry.errors import CatalogUnreachable, NotFound
from registry.names import VersionName
from registry.store import layout
from tests.support.registries import create, open_registry


@pytest.fixture
def offline(store_url: str, model: str, tmp_path: Path, dead_address: str) -> Registry:
    """A registry whose MLflow is down: v1.0.0 in both channels, then v2.0.0 in production."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    for name in ("v1.0.0-dinov3", "v2.0.0-dinov3"):
        create(registry, name, tmp_path)
    for name, channel in [("v1.0.0", "staging"), ("v1.0.0", "production"), ("v2.0.0", "production")]:
        assert registry.promote(f"{name}-dinov3", channel).changed
    return open_registry(tmp_path, store_url, model, tracking_uri=dead_address)


@pytest.fixture
def online(offline: Registry, tmp_path: Path, tracking_uri: str) -> Registry:
    return open_registry(tmp_path, offline.settings.store, offline.model, tracking_uri=tracking_uri)


def shown(registry: Registry) -> tuple[dict[str, str], dict[str, str]]:
    """The stage of each version, and which version each mirrored alias names."""
    import mlflow

    versions = {str(found.number): found for found in registry.catalog.versions(registry.model)}
    client = mlflow.MlflowClient(registry.settings.tracking_uri)
    aliases = client.get_registered_model(registry.model).aliases
    return (
        {found.version or "": found.stage for found in versions.values()},
        {name: versions[aliases[name]].version or "" for name in ("staging", "production") if name in aliases},
    )


def test_a_dry_run_says_what_is_missing_and_changes_nothing(online: Registry) -> None:
    for _ in range(2):
        planned = online.reconcile(dry_run=True)
        assert planned.logged == ("v1.0.0-dinov3", "v2.0.0-dinov3")
    assert online.catalog.versions(online.model) == ()


def test_a_wrong_model_is_not_taken_for_an_empty_one(online: Registry) -> None:
    wrong = Registry(settings=replace(online.settings, model=f"{online.model}x"))
    for dry_run in (True, False):
        with pytest.raises(NotFound, match=f"there are: {online.model}"):
            wrong.reconcile(dry_run=dry_run)
    assert wrong.catalog.versions(wrong.model) == ()


def test_what_happened_offline_is_shown_by_reconcile(offline: Registry, online: Registry) -> None:
    done = online.reconcile()
    assert done.logged == ("v1.0.0-dinov3", "v2.0.0-dinov3")
    stages, aliases = shown(online)
    assert stages == {"v1.0.0-dinov3": "Staging", "v2.0.0-dinov3": "Production"}
    assert aliases == {"staging": "v1.0.0-dinov3", "production": "v2.0.0-dinov3"}
    assert done.changes[-1] == "script of v1.0.0-dinov3: none -> rollback_to_v1.0.0-dinov3.py"
    assert online.reconcile(dry_run=True).changes == ()

    change = offline.rollback(reason="errors")
    assert (change.changed, change.version) == (True, "v1.0.0-dinov3")
    assert "MLflow does not show it yet" in offline.mirror()[0]
    assert shown(online)[1]["production"] == "v2.0.0-dinov3"
    healed = online.reconcile()
    assert any("production" in line for line in healed.changes)
    stages, aliases = shown(online)
    assert stages == {"v1.0.0-dinov3": "Production", "v2.0.0-dinov3": "Archived"}
    assert aliases["production"] == "v1.0.0-dinov3"

    nothing = online.reconcile()
    assert (nothing.logged, nothing.changes, nothing.skipped) == ((), (), ())


def test_without_mlflow_there_is_nothing_to_reconcile_with(offline: Registry) -> None:
    with pytest.raises(CatalogUnreachable):
        offline.reconcile()
    assert [listed.catalog_number for listed in offline.versions()] == [None, None]


@pytest.mark.acceptance
def test_a_damaged_version_does_not_hide_the_others(online: Registry) -> None:
    binding = online.bindings.get(VersionName.parse("v1.0.0-dinov3"))
    online.store.overwrite(layout.blob(binding.manifest_sha256), b"{}")
    online.store.overwrite(layout.version(online.model, "v9.9.9"), b"junk")
    done = online.reconcile()
    assert done.logged == ("v2.0.0-dinov3",)
    assert [line.partition(":")[0] for line in done.damaged] == ["v9.9.9", "v1.0.0-dinov3"]
    assert shown(online)[1] == {"production": "v2.0.0-dinov3"}
    assert [found.level for found in examine(online) if "can't be shown" in found.detail] == ["error"]

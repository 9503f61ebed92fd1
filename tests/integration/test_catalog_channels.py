"""What a `Registry` shows of its channels in a real MLflow, and what an MLflow that hangs can do to its process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from registry.api import Registry
from registry.catalog.client import Catalog
from registry.catalog.connection import PATIENT
from registry.usecases.options import CanaryOptions
from tests.support import flavor_package
from tests.support.registries import open_registry


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, tracking_uri: str) -> Registry:
    registry = open_registry(tmp_path, store_url, model, tracking_uri=tracking_uri)
    registry.store.initialise()
    return registry


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


@pytest.fixture
def equal_pair(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two versions of one content, in MLflow."""
    flavor_package.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for name in ("v1.0.0", "v1.0.1"):
        manifest, files = flavor_package.make_version(tmp_path, registry.model, name, "the same")
        for path in files.values():
            registry.blobs.put(path.read_bytes())
        registry.bindings.bind(manifest, registry.blobs.put(manifest.to_bytes()))
    assert registry.reconcile().logged == ("v1.0.0", "v1.0.1")
    return "v1.0.0", "v1.0.1"


def test_versions_with_equal_content_are_shown_as_themselves(registry: Registry, equal_pair: tuple[str, str]) -> None:
    import mlflow

    first, second = equal_pair
    assert {found.version: found.number for found in registry.catalog.versions(registry.model)} == {first: 1, second: 2}
    assert {listed.version: listed.catalog_number for listed in registry.versions()} == {first: 1, second: 2}

    assert registry.promote(second, "production").notes == ()
    client = mlflow.MlflowClient(registry.settings.tracking_uri)
    assert client.get_registered_model(registry.model).aliases["production"] == "2"
    stages = {found.version: found.stage for found in registry.catalog.versions(registry.model)}
    assert stages == {first: "None", second: "Production"}
    tags = {found.version: found.tags for found in registry.catalog.versions(registry.model)}
    assert (tags[second]["channel"], tags[second]["verdict"]) == ("production", "production pass")
    assert not {"channel", "verdict"} & set(tags[first])

    left = registry.reconcile()
    assert (left.logged, left.changes, left.skipped) == ((), (), ())


@pytest.mark.acceptance
def test_a_version_on_trial_is_staging_with_a_tag_of_its_share(registry: Registry, equal_pair: tuple[str, str]) -> None:
    first, second = equal_pair
    registry.promote(first, "production")

    def shown() -> tuple[str, str | None]:
        (found,) = [found for found in registry.catalog.versions(registry.model) if found.version == second]
        return found.stage, found.tags.get("ulora.trial")

    assert registry.canary.start(second, options=CanaryOptions(percent=10)).notes == ()
    assert shown() == ("Staging", "production 10%")
    registry.canary.advance(to=50)
    assert shown() == ("Staging", "production 50%")
    assert registry.reconcile().changes == ()
    registry.canary.abort()
    assert registry.mirror() == ()
    assert shown()[0] == "Archived"
    assert not shown()[1]
    forced = CanaryOptions(shadow=True, force=True)
    registry.canary.start(second, options=forced, reason="again")
    assert shown() == ("Staging", "production shadow 100%")
    registry.canary.advance()
    assert shown()[0] == "Production"
    assert not shown()[1]


def test_a_silent_server_does_not_block_the_use_of_another(registry: Registry, black_hole: str, tmp_path: Path) -> None:
    registry.catalog.ping()
    before = dict(os.environ)
    lost = open_registry(tmp_path / "lost", registry.settings.store, registry.model, tracking_uri=black_hole)
    (note,) = lost.mirror()
    assert "does not answer: timed out" in note or "not done after" in note  # by which limit was first
    assert dict(os.environ) == before
    # Without waiting: this would fail if the mirror's thread still had the lock.
    assert (
        Catalog(registry.settings.tracking_uri, registry.settings.store, limits=replace(PATIENT, turn=0)).versions(
            registry.model
        )
        == ()
    )
    registry.catalog.ping()

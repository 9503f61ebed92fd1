"""Versions in MLflow that are not what they say: `reconcile` logs the true ones again, and says what to delete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry.api import Registry
from registry.catalog import tags
from registry.channels.channel import PromoteOptions
from tests.support import flavor_package
from tests.support.mlflow_versions import client, register_as, tags_of
from tests.support.registries import open_registry

pytestmark = pytest.mark.acceptance
V1, V2 = "v1.0.0", "v1.1.0"


@pytest.fixture
def registry(
    store_url: str, model: str, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """v1.0.0 is #1 in MLflow and served, v1.1.0 is #2."""
    flavor_package.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registry = open_registry(tmp_path, store_url, model, tracking_uri=tracking_uri)
    registry.store.initialise()
    for name in (V1, V2):
        manifest, files = flavor_package.make_version(tmp_path, model, name, name)
        for path in files.values():
            registry.blobs.put(path.read_bytes())
        registry.bindings.bind(manifest, registry.blobs.put(manifest.to_bytes()))
    registry.promote(V1, "production")
    assert registry.reconcile().logged == (V1, V2)
    return registry


def aliases(registry: Registry) -> dict[str, int]:
    found = client(registry).get_registered_model(registry.model).aliases
    return {alias: int(number) for alias, number in found.items()}


def stages(registry: Registry) -> dict[int, str]:
    return {found.number: found.stage for found in registry.catalog.versions(registry.model)}


def logged(registry: Registry, number: int) -> str:
    """The id of the LoggedModel of a registered version."""
    return str(client(registry).get_model_version(registry.model, str(number)).source).removeprefix("models:/")


def promote_without_mlflow(registry: Registry, name: str) -> None:
    offline = open_registry(registry.settings.cache.parent, registry.settings.store, registry.model)
    assert offline.promote(name, "production", PromoteOptions()).changed


def copy(registry: Registry, theirs: Any, name: str) -> int:
    """Register a version whose LoggedModel says that it is a version of ours, and is ready."""
    number = register_as(theirs, registry.model, {"version": name}, logged_as=tags_of(registry, name))
    theirs.finalize_logged_model(logged(registry, number), "READY")
    return number


def test_a_served_version_that_was_deleted_is_logged_again(registry: Registry) -> None:
    client(registry).delete_logged_model(logged(registry, 1))
    assert registry.reconcile(dry_run=True).logged == (V1,)
    done = registry.reconcile()
    assert done.logged == (V1,)
    assert done.skipped == ("#1: its LoggedModel was deleted; delete it in MLflow",)
    assert aliases(registry) == {"production": 3, "v1_0_0": 3, "v1_1_0": 2}
    assert stages(registry) == {1: "Archived", 2: "None", 3: "Production"}
    assert registry.reconcile().changes == ()
    client(registry).delete_model_version(registry.model, "1")
    left = registry.reconcile()
    assert (left.logged, left.changes, left.skipped) == ((), (), ())


def test_a_version_that_was_deleted_can_be_promoted(registry: Registry) -> None:
    client(registry).delete_logged_model(logged(registry, 2))
    promote_without_mlflow(registry, V2)
    assert registry.reconcile().logged == (V2,)
    assert aliases(registry) == {"production": 3, "v1_0_0": 1, "v1_1_0": 3}
    assert stages(registry) == {1: "Archived", 2: "None", 3: "Production"}


def test_a_copy_of_all_tags_is_not_taken_for_a_version(registry: Registry) -> None:
    theirs = client(registry)
    false = copy(registry, theirs, V2)
    theirs.delete_model_version(registry.model, "2")
    promote_without_mlflow(registry, V2)
    assert registry.reconcile(dry_run=True).logged == (V2,)
    assert tags.REFUSED not in theirs.get_logged_model(logged(registry, false)).tags
    done = registry.reconcile()
    assert done.logged == (V2,)
    assert done.changes[0] == f"#{false}: no longer counts as {V2}, whose files it does not have"
    assert done.skipped == (f"#{false}: its files are not those of {V2}; delete it in MLflow",)
    assert aliases(registry) == {"production": false + 1, "v1_0_0": 1, "v1_1_0": false + 1}
    assert stages(registry) == {1: "Archived", false: "None", false + 1: "Production"}
    assert registry.reconcile().changes == ()


def test_a_copy_that_was_shown_loses_alias_and_stage(registry: Registry) -> None:
    theirs = client(registry)
    false, true = copy(registry, theirs, V1), logged(registry, 1)
    theirs.delete_model_version(registry.model, "1")
    theirs.delete_logged_model(true)
    registry.reconciler().reconcile_quickly()  # which looks at tags only
    assert (aliases(registry)["production"], stages(registry)[false]) == (false, "Production")
    assert registry.reconcile().logged == (V1,)
    assert aliases(registry) == {"production": false + 1, "v1_0_0": false + 1, "v1_1_0": 2}
    assert stages(registry) == {2: "None", false: "Archived", false + 1: "Production"}


def test_a_logged_model_that_copies_tags_is_never_registered(registry: Registry) -> None:
    theirs = client(registry)
    false, true = logged(registry, copy(registry, theirs, V1)), logged(registry, 1)
    for number in ("1", "3"):
        theirs.delete_model_version(registry.model, number)
    assert registry.reconcile().logged == (V1,)
    assert logged(registry, 4) == true
    assert theirs.get_logged_model(false).tags[tags.REFUSED] == f"its files are not those of {V1}"


def test_an_alias_that_a_copy_of_short_tags_holds_is_reported(registry: Registry) -> None:
    false = register_as(client(registry), registry.model, {"version": V2, "family": "none"}, logged_as={})
    for alias in ("production", "v1_1_0"):
        client(registry).set_registered_model_alias(registry.model, alias, str(false))
    assert registry.reconcile().skipped == (
        f"alias production: held by #{false}, which was not created by ulora; delete it in MLflow, or run with --adopt",
        f"alias v1_1_0: held by #{false}, which is not #2; delete it in MLflow, or run with --adopt",
    )
    registry.reconcile(adopt=True)
    assert aliases(registry) == {"production": 1, "v1_0_0": 1, "v1_1_0": 2}

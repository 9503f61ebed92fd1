"""Two stores with one model name on one MLflow server, and versions that others or early builds registered there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.api import Registry
from registry.catalog import tags
from registry.catalog.runs import EvidenceRun
from registry.devstack.s3_server import S3Server
from registry.errors import VersionNotFound
from registry.names import VersionName
from registry.store import layout
from tests.support.mlflow_versions import client, register, register_as, register_one, tags_of
from tests.support.registries import bind, open_registry

V1, V2 = "v1.0.0", "v1.1.0"


@pytest.fixture
def first(store_url: str, model: str, tmp_path: Path, tracking_uri: str) -> Registry:
    """A store with two versions, which are not in MLflow."""
    registry = open_registry(tmp_path / "first", store_url, model, tracking_uri=tracking_uri)
    registry.store.initialise()
    bind(registry, V1, V2)
    return registry


@pytest.fixture
def second(first: Registry, tmp_path: Path) -> Registry:
    """Another store with the same model, whose versions have the same names and other content."""
    store = first.settings.store + "-" + uuid.uuid4().hex[:8]
    registry = open_registry(tmp_path / "second", store, first.model, tracking_uri=first.settings.tracking_uri)
    registry.store.initialise()
    bind(registry, V1, V2, content="other")
    return registry


def aliases(registry: Registry) -> dict[str, int]:
    found = client(registry).get_registered_model(registry.model).aliases
    return {alias: int(number) for alias, number in found.items()}


def stages(registry: Registry) -> dict[int, str]:
    return {found.number: found.stage for found in registry.catalog.versions(registry.model)}


@pytest.mark.acceptance
def test_two_stores_do_not_move_each_others_aliases(first: Registry, second: Registry) -> None:
    register(first, V1, V2)
    ours = aliases(first)
    for version in (V1, V2):  # as `create` does in a model that shows another store
        manifest = second.manifest(version).to_bytes()
        register_as(client(second), second.model, tags_of(second, version), manifest=manifest)
    first.promote(V1, "production")
    first.reconcile()  # the promotion itself waits for MLflow only for a while
    shown = ({**ours, "production": 1}, {1: "Production", 2: "None", 3: "None", 4: "None"})
    second.promote(V2, "production")
    client(first).set_registered_model_alias(first.model, "request-production", "4")
    for _ in range(2):
        (said,) = second.reconcile().skipped
        assert f"shows the channels of {first.catalog.claim}, and this store is {second.catalog.claim}" in said
        mine = first.reconcile()
        assert mine.skipped == ()
        assert not [change for change in mine.changes if change.startswith(("alias", "stage"))]
        assert (aliases(first), stages(first)) == shown
    answer = client(first).get_registered_model(first.model).tags["ulora.request.production"]
    assert f"#4 was not created by ulora in the store {first.settings.store}" in answer
    assert [listed.catalog_number for listed in first.versions()] == [1, 2]
    assert [listed.catalog_number for listed in second.versions()] == [3, 4]

    client(second).set_registered_model_tag(second.model, tags.STORE, second.settings.store)  # the way out
    assert "alias production: 1 -> 4" in second.reconcile().changes
    assert "nothing changed" in first.reconcile().skipped[0]
    assert aliases(first)["production"] == 4


@pytest.fixture
def elsewhere(first: Registry, s3: S3Server, tmp_path: Path) -> Iterator[Registry]:
    """A store with the same URL on another server, whose versions have other content."""
    server = S3Server(tmp_path / "s3", bucket=s3.bucket)
    server.access_key, server.secret_key = s3.access_key, s3.secret_key
    place = first.settings
    try:
        other = open_registry(
            tmp_path / "elsewhere", place.store, first.model, tracking_uri=place.tracking_uri,
            endpoint_url=server.start().url,
        )  # fmt: skip
        other.store.initialise()
        bind(other, V1, V2, content="other")
        yield other
    finally:
        server.kill()


@pytest.mark.acceptance
def test_equal_urls_on_two_servers_are_two_stores(first: Registry, elsewhere: Registry) -> None:
    register(first, V1, V2)
    for version in (V1, V2):
        manifest = elsewhere.manifest(version).to_bytes()
        register_as(client(elsewhere), first.model, tags_of(elsewhere, version), manifest=manifest)
    first.promote(V1, "production")
    first.reconcile()
    shown = aliases(first)
    elsewhere.promote(V2, "production")
    for _ in range(2):
        (said,) = elsewhere.reconcile().skipped
        assert f"shows the channels of {first.catalog.claim}, and this store is {elsewhere.catalog.claim}" in said
        assert not [change for change in first.reconcile().changes if change.startswith(("alias", "stage", "store"))]
        assert (aliases(first), shown["production"]) == (shown, 1)
    client(first).set_registered_model_tag(first.model, tags.STORE, elsewhere.catalog.claim)  # the way out
    assert "alias production: 1 -> 4" in elsewhere.reconcile().changes
    assert "nothing changed" in first.reconcile().skipped[0]


@pytest.mark.acceptance
def test_a_store_without_an_id_does_not_take_from_one_with(first: Registry, elsewhere: Registry) -> None:
    """Earlier releases made such stores. A model that only says the URL is claimed by the first that has an id."""
    elsewhere.store.overwrite(layout.FORMAT_KEY, b'{"format":1}')
    old = Registry(settings=elsewhere.settings)
    assert old.catalog.claim == first.settings.store
    register(old, V1)
    assert (old.reconcile().skipped, old.reconcile().changes) == ((), ()), "as before"
    register_one(first, V1)
    assert f"store of the model: {first.settings.store} -> {first.catalog.claim}" in first.reconcile().changes
    first.promote(V1, "production")
    first.reconcile()
    assert aliases(first)["production"] == 2
    old.promote(V1, "production")
    assert "nothing changed" in old.reconcile().skipped[0]
    assert aliases(first)["production"] == 2


def test_evidence_never_goes_to_a_false_version(first: Registry) -> None:
    theirs = client(first)
    theirs.create_registered_model(first.model)
    binding = first.bindings.get(VersionName.parse(V1))
    ours = tags_of(first, V1)
    register_as(theirs, first.model, ours | {tags.CONTENT: "f" * 64})
    register_as(theirs, first.model, ours | {tags.MANIFEST: "f" * 64})
    register_as(theirs, first.model, ours | {tags.STORE: "s3://bucket/other"})
    register_as(theirs, first.model, ours, logged_as={})
    with pytest.raises(VersionNotFound):
        first.catalog.record_evidence(binding, EvidenceRun("ood", "0" * 64, {"ood_auroc": 0.5}))
    number = register_one(first, V1)
    first.catalog.record_evidence(binding, EvidenceRun("ood", "0" * 64, {"ood_auroc": 0.5}))
    shown = {
        found.number: bool(client(first).get_logged_model(found.model_id).metrics)
        for found in first.catalog.versions(first.model)
        if found.model_id
    }
    assert shown == {1: False, 2: False, 3: False, 4: False, number: True}
    found = first.catalog.find(binding)
    assert found is not None
    assert found.number == number


@pytest.mark.acceptance
def test_versions_of_early_builds_are_adopted_by_content(first: Registry) -> None:
    client(first).create_registered_model(first.model)
    for version in (V1, V2):
        register_one(first, version, says_store=False)
    false = register_as(client(first), first.model, {tags.VERSION: V1, tags.CONTENT: "f" * 64, tags.MANIFEST: "f" * 64})
    first.promote(V1, "production")
    said = [f"store of {V2}: none -> {first.settings.store}"]  # the promotion brought the page of the other up to date
    assert [line for line in first.reconcile(dry_run=True).changes if line.startswith("store of v")] == said
    assert list(first.reconcile().changes)[:1] == said
    assert first.reconcile().changes == ()
    for number in (1, 2):
        shown = client(first).get_model_version(first.model, str(number))
        assert not [name for name in shown.tags if name.startswith("ulora.")], "what identifies it is on its source"
        source = client(first).get_logged_model(str(shown.source).removeprefix("models:/"))
        assert tags_of(first, (V1, V2)[number - 1]).items() <= source.tags.items()
    stores = {found.number: found.store for found in first.catalog.versions(first.model)}
    assert stores == {1: first.settings.store, 2: first.settings.store, false: ""}
    assert stages(first) == {1: "Production", 2: "None", false: "None"}

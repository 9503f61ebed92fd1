"""The mirror on a real MLflow: its stages and aliases follow the channels, and unmanaged versions are not changed."""

from __future__ import annotations

import pytest

from registry.catalog.client import Catalog
from registry.catalog.mirror import MirrorOptions, mirror, preview
from registry.catalog.version_id import VersionId
from registry.catalog.views import ChannelView
from registry.errors import CatalogUnreachable, NotNow
from tests.servers import proxy as faults
from tests.servers.proxy import Proxy
from tests.support.mlflow_versions import register_as

STORE = "s3://bucket/prefix"
DIGEST = "0" * 64
ALIASES = {"staging": "staging", "production": "champion"}
V1, V2, V3 = "v1.0.0", "v1.1.0", "v2.0.0-dinov3"


@pytest.fixture
def catalog(tracking_uri: str) -> Catalog:
    return Catalog(tracking_uri, STORE, ALIASES)


def client(catalog: Catalog):
    import mlflow

    return mlflow.MlflowClient(catalog.connection.uri)


def register(catalog: Catalog, model: str, *versions: str | None) -> None:
    """Register versions as `Catalog.log` tags them, without logging artifacts; None is an unmanaged one."""
    theirs = client(catalog)
    theirs.create_registered_model(model, tags={"ulora.store": STORE})
    for version in versions:
        register_as(theirs, model, tags_of(version) if version else {})


def tags_of(version: str, store: str = STORE, digest: str = DIGEST) -> dict[str, str]:
    """The tags of a version, whose content and manifest have the same digest here."""
    digests = {"ulora.content_sha256": digest, "ulora.manifest_sha256": digest}
    return {"ulora.store": store, "ulora.version": version, **digests}


def views(production: str | None = None, staging: str | None = None, *, generation: int = 1, formerly=()):
    """The channels by the names of their versions."""

    def of(version: str | None) -> VersionId | None:
        return VersionId(version, DIGEST) if version else None

    return [
        ChannelView("production", generation, of(production), formerly=frozenset(map(of, formerly))),
        ChannelView("staging", generation, of(staging)),
    ]


def shown(catalog: Catalog, model: str) -> dict[int, str]:
    return {version.number: version.stage for version in catalog.versions(model)}


def aliases(catalog: Catalog, model: str) -> dict[str, int]:
    found = client(catalog).get_registered_model(model).aliases
    return {alias: int(number) for alias, number in found.items() if not alias.startswith("v")}


def test_stages_and_aliases_follow_a_promotion_and_its_rollback(catalog: Catalog, model: str) -> None:
    register(catalog, model, V1, V2)
    mirror(catalog, model, lambda: views(V1, V2))
    assert shown(catalog, model) == {1: "Production", 2: "Staging"}
    assert aliases(catalog, model) == {"champion": 1, "staging": 2}
    named = client(catalog).get_registered_model(model).aliases
    assert (named["v1_0_0"], named["v1_1_0"]) == ("1", "2"), "whoever registers them may be stopped before that"
    mirror(catalog, model, lambda: views(V2, V2, formerly=[V1]))
    assert shown(catalog, model) == {1: "Archived", 2: "Production"}
    assert aliases(catalog, model) == {"champion": 2, "staging": 2}
    mirror(catalog, model, lambda: views(V1, V1, formerly=[V2]))
    assert shown(catalog, model) == {1: "Production", 2: "Archived"}
    assert aliases(catalog, model) == {"champion": 1, "staging": 1}


def test_what_is_shown_already_costs_no_write(mlflow_proxy: Proxy, catalog: Catalog, model: str) -> None:
    register(catalog, model, V1, V2)
    through = Catalog(mlflow_proxy.url, STORE, ALIASES)
    assert len(mirror(through, model, lambda: views(V1, V2)).changes) == 6
    mlflow_proxy.clear()
    assert mirror(through, model, lambda: views(V1, V2)).changes == ()
    assert [path.partition("?")[0].rpartition("mlflow/")[2] for _, path in mlflow_proxy.requests] == [
        "registered-models/get",
        "model-versions/search",
    ]


def test_a_preview_writes_nothing(catalog: Catalog, model: str) -> None:
    register(catalog, model, V1)
    plan = preview(catalog, model, views(V1))
    assert [str(change) for change in plan.changes] == [
        "alias champion: none -> 1",
        f"stage of {V1}: None -> Production",
        "alias v1_0_0: none -> 1",
    ]
    assert shown(catalog, model) == {1: "None"}
    assert aliases(catalog, model) == {}


@pytest.mark.acceptance
def test_a_mirror_repeats_until_the_channels_stop_moving(catalog: Catalog, model: str) -> None:
    register(catalog, model, V1, V2, V3)
    reads = iter([views(V1, generation=1), views(V2, generation=2), views(V3, generation=3), views(V3, generation=3)])
    mirror(catalog, model, lambda: next(reads))
    assert aliases(catalog, model) == {"champion": 3}
    assert [number for number, stage in shown(catalog, model).items() if stage == "Production"] == [3]


@pytest.mark.acceptance
def test_a_channel_that_never_stands_still_ends_in_an_error(catalog: Catalog, model: str) -> None:
    register(catalog, model, V1)
    generation = iter(range(1, 10_000))
    with pytest.raises(NotNow, match="moved"):
        mirror(catalog, model, lambda: views(V1, generation=next(generation)))


def test_stages_and_aliases_moved_by_hand_are_put_back(catalog: Catalog, model: str) -> None:
    register(catalog, model, V1, V2)
    mirror(catalog, model, lambda: views(V1, V2))
    client(catalog).set_registered_model_alias(model, "champion", "2")
    client(catalog).transition_model_version_stage(model, "2", "Production")
    mirror(catalog, model, lambda: views(V1, V2))
    assert shown(catalog, model) == {1: "Production", 2: "Staging"}
    assert aliases(catalog, model) == {"champion": 1, "staging": 2}


def test_the_mirror_never_changes_an_unmanaged_version(catalog: Catalog, model: str) -> None:
    register(catalog, model, None, V1)
    theirs = client(catalog)
    theirs.transition_model_version_stage(model, "1", "Production")
    theirs.set_registered_model_alias(model, "champion", "1")
    before = theirs.get_model_version(model, "1")
    done = mirror(catalog, model, lambda: views(V1))
    assert dict(theirs.get_model_version(model, "1")) == dict(before)
    assert shown(catalog, model) == {1: "Production", 2: "Production"}
    assert aliases(catalog, model) == {"champion": 1}
    assert len(done.skipped) == 2


def test_an_unmanaged_version_is_adopted_on_request(catalog: Catalog, model: str) -> None:
    register(catalog, model, None, V1)
    client(catalog).transition_model_version_stage(model, "1", "Production")
    client(catalog).set_registered_model_alias(model, "champion", "1")
    mirror(catalog, model, lambda: views(V1), MirrorOptions("adopt"))
    assert shown(catalog, model) == {1: "Archived", 2: "Production"}
    assert aliases(catalog, model) == {"champion": 2}


def test_a_server_without_stages_gets_aliases_only(mlflow_proxy: Proxy, catalog: Catalog, model: str) -> None:
    register(catalog, model, V1)
    no_such_endpoint = faults.Reply(
        404, [("Content-Type", "application/json")], b'{"error_code": "ENDPOINT_NOT_FOUND"}'
    )
    mlflow_proxy.next(lambda exchange: exchange.send(no_such_endpoint), containing="/transition-stage", times=9)
    done = mirror(Catalog(mlflow_proxy.url, STORE, ALIASES), model, lambda: views(V1))
    assert aliases(catalog, model) == {"champion": 1}
    assert [str(change) for change in done.changes] == ["alias champion: none -> 1", "alias v1_0_0: none -> 1"]
    assert "no stages" in done.skipped[0]


def test_a_model_that_mlflow_does_not_know_is_skipped(catalog: Catalog, model: str) -> None:
    done = mirror(catalog, model, lambda: views(V1))
    assert done.changes == ()
    assert V1 in done.skipped[0]


@pytest.mark.acceptance
def test_a_mirror_that_died_half_way_is_finished_by_the_next(mlflow_proxy: Proxy, catalog: Catalog, model: str) -> None:
    register(catalog, model, V1, V2)
    mlflow_proxy.next(faults.refuse, containing="/transition-stage", times=99)
    with pytest.raises(CatalogUnreachable):
        mirror(Catalog(mlflow_proxy.url, STORE, ALIASES), model, lambda: views(V1, V2))
    mirror(catalog, model, lambda: views(V1, V2))
    assert shown(catalog, model) == {1: "Production", 2: "Staging"}


def test_a_server_that_is_down_is_unreachable(model: str, dead_address: str) -> None:
    with pytest.raises(CatalogUnreachable):
        mirror(Catalog(dead_address, STORE), model, lambda: views(V1))


def test_a_mirror_prints_nothing(catalog: Catalog, model: str, capfd: pytest.CaptureFixture[str]) -> None:
    register(catalog, model, V1)
    capfd.readouterr()
    mirror(catalog, model, lambda: views(V1))
    assert capfd.readouterr() == ("", "")


# --- whose versions, and whose model ---------------------------------------------------------------------------------


def test_a_lower_number_with_our_name_is_not_our_version(catalog: Catalog, model: str) -> None:
    theirs = client(catalog)
    theirs.create_registered_model(model)
    others = "f" * 64
    for tags in (
        {"ulora.version": V1},
        tags_of(V1, digest=others),
        tags_of(V1) | {"ulora.store": "s3://bucket/other"},
        tags_of(V1, digest=others) | {"ulora.content_sha256": DIGEST},
    ):
        register_as(theirs, model, tags)
    ours = register_as(theirs, model, tags_of(V1))
    for _ in range(2):
        mirror(catalog, model, lambda: views(V1, V1))
        assert aliases(catalog, model) == {"champion": ours, "staging": ours}
        assert shown(catalog, model) == dict.fromkeys(range(1, ours), "None") | {ours: "Production"}
    assert theirs.get_registered_model(model).aliases["v1_0_0"] == str(ours)


def test_a_lower_number_with_all_our_tags_needs_our_source(catalog: Catalog, model: str) -> None:
    register(catalog, model)
    theirs = client(catalog)
    false = register_as(theirs, model, tags_of(V1), logged_as={"ulora.version": V2})
    (said,) = mirror(catalog, model, lambda: views(V1)).to_delete
    assert said.startswith(f"#{false}: its tags say what its source is not")
    ours = register_as(theirs, model, tags_of(V1))
    mirror(catalog, model, lambda: views(V1))
    assert aliases(catalog, model) == {"champion": ours}
    assert shown(catalog, model) == {false: "None", ours: "Production"}


def test_an_alias_moved_to_a_false_version_is_moved_back(catalog: Catalog, model: str) -> None:
    register(catalog, model, V1)
    theirs = client(catalog)
    false = register_as(theirs, model, tags_of(V1, digest="f" * 64))
    mirror(catalog, model, lambda: views(V1))
    theirs.set_registered_model_alias(model, "champion", str(false))
    mirror(catalog, model, lambda: views(V1))
    assert aliases(catalog, model) == {"champion": 1}


def test_a_model_that_shows_another_store_is_not_changed(catalog: Catalog, model: str) -> None:
    register(catalog, model, V1)
    mirror(catalog, model, lambda: views(V1))
    second = Catalog(catalog.connection.uri, "s3://bucket/second/", ALIASES)
    register_as(client(catalog), model, tags_of(V1, store="s3://bucket/second", digest="e" * 64))
    for options in (MirrorOptions(), MirrorOptions("adopt")):
        done = mirror(second, model, lambda: views(None, V1), options)
        assert done.changes == ()
        (said,) = done.skipped
        assert f"the model {model} in MLflow shows the channels of {STORE}" in said
        assert "this store is s3://bucket/second." in said
    assert aliases(catalog, model) == {"champion": 1}
    assert shown(catalog, model) == {1: "Production", 2: "None"}


def test_a_model_without_a_store_is_taken_by_the_first(catalog: Catalog, model: str) -> None:
    theirs = client(catalog)
    theirs.create_registered_model(model)
    unsaid = {name: value for name, value in tags_of(V1).items() if name != "ulora.store"}
    register_as(theirs, model, unsaid)
    assert str(preview(catalog, model, views(V1)).changes[0]) == f"store of the model: none -> {STORE}"
    mirror(catalog, model, lambda: views(V1))
    assert theirs.get_registered_model(model).tags["ulora.store"] == STORE
    assert aliases(catalog, model) == {"champion": 1}


def test_a_model_that_mirrored_another_store_is_not_taken(catalog: Catalog, model: str) -> None:
    theirs = client(catalog)
    theirs.create_registered_model(model, tags={"ulora.mirrored.production": "1"})
    unsaid = {name: value for name, value in tags_of(V1).items() if name != "ulora.store"}
    register_as(theirs, model, unsaid)
    theirs.set_registered_model_alias(model, "champion", "1")
    register_as(theirs, model, tags_of(V2))
    done = mirror(catalog, model, lambda: views(V2))
    assert done.changes == ()
    assert "showed #1, which is not of this store" in done.skipped[0]
    theirs.set_registered_model_tag(model, "ulora.store", STORE)
    mirror(catalog, model, lambda: views(V2))
    assert aliases(catalog, model) == {"champion": 2}

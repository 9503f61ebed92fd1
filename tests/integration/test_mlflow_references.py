"""Versions that MLflow holds as references: small models that get their files from the store, and check every one."""

from __future__ import annotations

import base64
import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pandas
import pytest
from mlflow import MlflowClient

from registry.api import Registry
from registry.catalog.reference import Reference
from registry.errors import (
    CorruptBlob,
    MissingBlob,
    StoreDenied,
    StoreUnreachable,
)
from registry.store import layout
from tests.support import flavor_package
from tests.support.bundles import png
from tests.support.registries import file_of, flip_a_byte, open_registry, small_bundle

pytestmark = pytest.mark.acceptance

V1, V2, V3 = "v1.0.0", "v1.1.0", "v1.2.0"
TABLE = pandas.DataFrame({"path": ["config/a.txt", "router/b.txt"]})


def with_artifacts(registry: Registry, kind: str, **changes: Any) -> Registry:
    """The same registry with another setting."""
    return Registry(settings=replace(registry.settings, mlflow_artifacts=kind, **changes))


@pytest.fixture
def copying(store_url: str, model: str, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry with the setting `copy`, and the flavor `plain`; models are loaded with a cache of their own."""
    flavor_package.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache of models"))
    registry = open_registry(tmp_path, store_url, model, tracking_uri=tracking_uri)
    registry.store.initialise()
    return registry


@pytest.fixture
def registry(copying: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The setting is `reference`; v1.0.0 of the flavor `plain` is #1 in MLflow."""
    monkeypatch.delenv("ULORA_STORE")  # the model itself says where its files are
    registry = with_artifacts(copying, "reference")
    store_version(registry, V1)
    assert registry.reconcile().logged == (V1,)
    return registry


def store_version(registry: Registry, name: str, text: str = "a") -> None:
    folder = registry.settings.cache.parent
    manifest, files = flavor_package.make_version(folder, registry.model, name, text)
    for path in files.values():
        registry.blobs.put(path.read_bytes())
    registry.bindings.bind(manifest, registry.blobs.put(manifest.to_bytes()))


def client(registry: Registry) -> MlflowClient:
    return MlflowClient(registry.settings.tracking_uri)


def model_id(registry: Registry, number: int) -> str:
    return str(client(registry).get_model_version(registry.model, str(number)).source).removeprefix("models:/")


def artifacts(registry: Registry, number: int) -> dict[str, int]:
    """The files that MLflow holds of a version, and their sizes."""
    theirs, logged = client(registry), model_id(registry, number)

    def below(folder: str | None) -> dict[str, int]:
        found: dict[str, int] = {}
        for each in theirs.list_logged_model_artifacts(logged, folder):
            found |= below(each.path) if each.is_dir else {each.path: each.file_size}
        return found

    return below(None)


def load(registry: Registry, number: int = 1) -> Any:
    return mlflow.pyfunc.load_model(f"models:/{registry.model}/{number}")


def texts(model: Any) -> list[str]:
    return list(model.predict(TABLE)["text"])


# --- loading ---------------------------------------------------------------------------------------------------------


def test_a_reference_answers_as_a_copy_does(copying: Registry, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    copying.create(V1, bundle)
    with_artifacts(copying, "reference").create(V2, bundle)
    images = pandas.DataFrame({"image": [base64.b64encode(png(seed)).decode() for seed in range(3)], "target": "low"})
    one, two = load(copying, 1), load(copying, 2)
    answers = [each.predict(images).drop(columns="version").to_dict("records") for each in (one, two)]
    assert answers[0] == answers[1]
    assert one.metadata.signature == two.metadata.signature
    assert one.input_example.to_dict() == two.input_example.to_dict()
    assert [each.metadata.metadata["artifacts"] for each in (one, two)] == ["copy", "reference"]
    size = copying.manifest(V1).size
    assert sum(artifacts(copying, 1).values()) > size > 4 * sum(artifacts(copying, 2).values())
    assert [path for path in artifacts(copying, 2) if path.startswith("artifacts/")] == [
        "artifacts/bundle/version.json"
    ]


def test_the_model_says_where_its_files_are_and_no_secret(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, s3_env: dict[str, str]
) -> None:
    server = s3_env["AWS_ENDPOINT_URL_S3"]
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    there = with_artifacts(registry, "reference", endpoint_url=server)
    store_version(there, V2, "b")
    assert there.reconcile().logged == (V2,)
    assert texts(load(there, 2)) == ["b", "b"]
    config = load(there, 2).metadata.flavors["python_function"]["config"]
    assert config == {"flavor": "plain", "store": registry.settings.store, "endpoint_url": server}
    assert "secret" not in str(Reference("s3://b", "http://ann:secret@host").config("plain"))


def test_the_environment_overrules_where_the_files_are(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, dead_address: str
) -> None:
    monkeypatch.setenv("ULORA_STORE", f"{registry.settings.store}-b")
    with pytest.raises(MissingBlob, match=rf"reference to {V1}.*{registry.settings.store}-b") as missing:
        load(registry)
    assert "forgotten" in missing.value.hint
    monkeypatch.delenv("ULORA_STORE")
    monkeypatch.setenv("ULORA_S3_ENDPOINT", dead_address)
    with pytest.raises(StoreUnreachable, match=rf"reference to {V1}.*{dead_address}") as away:
        load(registry)
    assert "ULORA_S3_ENDPOINT" in away.value.hint


def test_another_store_is_not_looked_for_at_the_old_server() -> None:
    config = Reference("s3://bucket/a", "http://old").config("plain")
    assert Reference.found(config) == Reference("s3://bucket/a", "http://old")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ULORA_STORE", "s3://bucket/a/")
        assert Reference.found(config).endpoint_url == "http://old"
        patch.setenv("ULORA_STORE", "s3://bucket/b")
        assert Reference.found(config) == Reference("s3://bucket/b", None)
        patch.setenv("ULORA_S3_ENDPOINT", "http://new")
        assert Reference.found(config) == Reference("s3://bucket/b", "http://new")


@pytest.mark.parametrize("wrong", ["none", "other"])
def test_without_the_right_credentials_the_error_says_so(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name) if wrong == "none" else monkeypatch.setenv(name, "other")
    with pytest.raises(StoreDenied, match=f"MLflow holds a reference to {V1}") as refused:
        load(registry)
    assert "a reference needs the store and the right to read it" in refused.value.hint


def test_a_damaged_file_is_refused(registry: Registry) -> None:
    flip_a_byte(registry, V1, "config/a.txt")
    with pytest.raises(CorruptBlob, match=r"config/a\.txt"):
        load(registry)


def test_the_folder_of_a_loaded_model_ends_with_it(registry: Registry) -> None:
    loaded = load(registry)
    folder = Path(loaded.unwrap_python_model().folder)
    assert (folder / "version.json").is_file()
    del loaded
    load(registry)  # MLflow itself keeps the model that was loaded last
    gc.collect()
    assert not folder.exists()


def test_what_was_loaded_once_loads_again_from_the_cache(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, dead_address: str
) -> None:
    assert texts(load(registry)) == ["a", "b"]
    monkeypatch.setenv("ULORA_S3_ENDPOINT", dead_address)
    assert texts(load(registry)) == ["a", "b"]


# --- what asks what MLflow holds --------------------------------------------------------------------------------------


def test_reconcile_leaves_references_and_copies_alone(registry: Registry) -> None:
    copying = with_artifacts(registry, "copy")
    store_version(copying, V2, "b")
    assert copying.reconcile().logged == (V2,)
    for name in (V1, V2):
        registry.promote(name, "production")
    for each in (registry, copying):
        done = each.reconcile()
        assert (done.logged, done.changes, done.skipped, done.damaged) == ((), (), (), ())
    assert "artifacts/bundle/config/a.txt" in artifacts(registry, 2)
    assert [texts(load(registry, number)) for number in (1, 2)] == [["a", "b"], ["b", "b"]]


def test_a_reference_that_was_deleted_is_made_again(registry: Registry) -> None:
    registry.promote(V1, "production")
    client(registry).delete_logged_model(model_id(registry, 1))
    assert registry.reconcile().logged == (V1,)
    assert texts(load(registry, 2)) == ["a", "b"]
    assert "artifacts/bundle/config/a.txt" not in artifacts(registry, 2)


def test_a_reference_with_another_manifest_is_refused(registry: Registry, tmp_path: Path) -> None:
    registry.promote(V1, "production")
    (tmp_path / "changed").mkdir()
    (tmp_path / "changed" / "version.json").write_text("{}")
    client(registry).log_model_artifacts(model_id(registry, 1), str(tmp_path / "changed"), "artifacts/bundle")
    done = registry.reconcile()
    assert done.logged == (V1,)
    assert done.changes[0] == f"#1: no longer counts as {V1}, whose files it does not have"


def test_no_reference_is_made_to_files_that_the_store_lacks(registry: Registry) -> None:
    store_version(registry, V2, "b")
    registry.store.delete(layout.blob(file_of(registry, V2, "config/a.txt").sha256))
    done = registry.reconcile()
    assert done.logged == ()
    assert [each.partition(":")[0] for each in done.damaged] == [V2]


def test_a_version_is_made_from_a_reference(copying: Registry, store_url: str, tmp_path: Path) -> None:
    registry = with_artifacts(copying, "reference")
    registry.create(V1, small_bundle(tmp_path / "bundle"))
    registry.create(V2, f"models:/{registry.model}/1", offline=True)
    assert registry.manifest(V2).content_sha256 == registry.manifest(V1).content_sha256
    elsewhere = open_registry(
        tmp_path / "b", f"{store_url}-b", registry.model, tracking_uri=registry.settings.tracking_uri
    )
    elsewhere.store.initialise()
    with pytest.raises(MissingBlob, match=rf"models:/{registry.model}/1 is a reference") as refused:
        elsewhere.create(V1, f"models:/{registry.model}/1", offline=True)
    assert "ulora store copy" in refused.value.hint

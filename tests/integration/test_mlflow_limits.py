"""MLflow servers that can't take versions, or not all of them: found out first, or one version's own trouble."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from registry.api import Registry
from registry.errors import CatalogRefused, NotInMlflow, Unreachable, VersionNotFound
from registry.names import VersionName
from registry.usecases.options import CreateOptions
from tests.servers.proxy import Exchange, Proxy, Reply
from tests.support.registries import create, open_registry, small_bundle
from tests.support.run_ulora import ulora

V1, V2 = "v1.0.0", "v2.0.0"
ODD = ("meeting #1.md", "50%25.md", "a;b.md", "naïve plan.md", "renamed/x.md")


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, tracking_uri: str, mlflow_proxy: Proxy) -> Registry:
    """A store, and MLflow behind a proxy."""
    registry = open_registry(tmp_path, store_url, model, tracking_uri=mlflow_proxy.url)
    registry.store.initialise()
    return registry


def too_large(exchange: Exchange) -> None:
    """A proxy's limit on bodies."""
    if len(exchange.body) > 20_000:
        exchange.send(Reply(413, [("Content-Type", "text/html")], b"<html>Request Entity Too Large</html>"))
    else:
        exchange.send(exchange.forward())


def not_found(exchange: Exchange) -> None:
    exchange.send(Reply(404, [], b""))


def sign_in(exchange: Exchange) -> None:
    exchange.send(
        Reply(200, [("Content-Type", "text/html")], b"<!DOCTYPE html><html><body>Please sign in</body></html>")
    )


def test_a_server_without_logged_models_binds_no_name(registry: Registry, mlflow_proxy: Proxy, tmp_path: Path) -> None:
    mlflow_proxy.next(not_found, containing="logged-models", times=99)
    with pytest.raises(CatalogRefused, match="no LoggedModels") as refused:
        registry.create(V1, small_bundle(tmp_path / "bundle"))
    assert "3.17" in refused.value.hint
    with pytest.raises(VersionNotFound):
        registry.bindings.get(VersionName.parse(V1))


def test_a_sign_in_page_binds_no_name(registry: Registry, mlflow_proxy: Proxy, tmp_path: Path) -> None:
    mlflow_proxy.next(sign_in, times=99)
    with pytest.raises(Unreachable):
        registry.create(V1, small_bundle(tmp_path / "bundle"))
    with pytest.raises(VersionNotFound):
        registry.bindings.get(VersionName.parse(V1))


@pytest.mark.acceptance
def test_a_version_that_mlflow_lacks_stands_and_says_so(
    registry: Registry, mlflow_proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow_proxy.next(too_large, method="PUT", times=999)
    settings = registry.settings
    given = {"MODEL": settings.model, "CACHE": settings.cache, "POLICY": settings.policy}
    for name, value in given.items():
        monkeypatch.setenv(f"ULORA_{name}", str(value))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_proxy.url)
    done = ulora("create", V1, "--from", small_bundle(tmp_path / "bundle"), "--json")
    assert done.code == NotInMlflow.exit_code == 8
    assert (done.document["version"], done.document["catalog_number"]) == (V1, None)
    assert done.error["error"] == "NotInMlflow"
    assert registry.manifest(V1).version == V1

    create(registry, V2, tmp_path)
    small = replace(registry.settings, tracking_uri=mlflow_proxy.url)
    failed = Registry(settings=small).reconcile().failed
    assert [line.partition(":")[0] for line in failed] == [V1, V2]
    assert "413" in failed[0]
    assert ulora("reconcile", "--json").code == 8
    mlflow_proxy.clear()
    assert set(registry.reconcile().logged) == {V1, V2}
    experiment = registry.catalog.connection
    with experiment.open() as client:
        found = client.search_logged_models([client.get_experiment_by_name(registry.model).experiment_id])
    assert sorted((each.name, each.status) for each in found) == [("v1_0_0", "READY"), ("v2_0_0", "READY")]


@pytest.mark.acceptance
def test_a_version_that_mlflow_refuses_stops_no_other(registry: Registry, mlflow_proxy: Proxy, tmp_path: Path) -> None:
    for name in (V1, V2):
        create(registry, name, tmp_path)
    refused: list[str] = []

    def refuse_the_first(exchange: Exchange) -> None:
        model_id = exchange.path.partition("/models/")[2].partition("/")[0]
        refused[:] = refused or [model_id]
        too_large(exchange) if model_id in refused else exchange.send(exchange.forward())

    mlflow_proxy.next(refuse_the_first, method="PUT", times=999)
    done = registry.reconcile()
    assert (done.logged, [line.partition(":")[0] for line in done.failed]) == ((V2,), [V1])


@pytest.mark.acceptance
def test_files_with_any_name_are_stored_in_mlflow_and_come_back(registry: Registry, tmp_path: Path) -> None:
    project = tmp_path / "site"
    for name in ODD:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(f"this is {name}")
    created = registry.create(V1, options=CreateOptions(project=project))
    uri = f"models:/{registry.model}/{created.catalog_number}"
    assert mlflow.pyfunc.load_model(uri) is not None, "its files are checked when it is loaded"
    back = registry.catalog.download(uri, tmp_path / "back")
    assert {name: next(back.rglob(name)).read_text() for name in ODD} == {name: f"this is {name}" for name in ODD}

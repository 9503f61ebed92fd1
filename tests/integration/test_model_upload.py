"""The files of a version go to MLflow several at a time, and all of them arrive where they belong."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from mlflow import MlflowClient

from registry.catalog.client import Catalog
from registry.catalog.model_upload import AT_A_TIME, upload
from registry.errors import UloraError
from registry.formats.canonical import sha256
from tests.servers import proxy as faults
from tests.servers.proxy import Exchange, Proxy
from tests.support import flavor_package

PUT = {"method": "PUT", "containing": "mlflow-artifacts"}


@pytest.fixture
def client(mlflow_proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return MlflowClient(tracking_uri=mlflow_proxy.url)


@pytest.fixture
def model_id(client: MlflowClient, model: str) -> str:
    return str(client.create_logged_model(client.create_experiment(model), name="m").model_id)


def write(folder: Path, number: int) -> dict[str, int]:
    """Files in folders of any depth, of different sizes, two with one name: their sizes by path."""
    sizes = {f"{'/'.join(['deep'] * (each % 4))}/f {each}.bin".lstrip("/"): each * 37 + 1 for each in range(number)}
    sizes |= {"one/same.txt": 1, "two/same.txt": 2}
    for path, size in sizes.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
    return sizes


def uploaded(client: MlflowClient, model_id: str, folder: str | None = None) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in client.list_logged_model_artifacts(model_id, folder):
        found |= uploaded(client, model_id, each.path) if each.is_dir else {each.path: each.file_size}
    return found


def test_every_file_arrives_under_its_path(client: MlflowClient, model_id: str, tmp_path: Path) -> None:
    sizes = write(tmp_path / "model", 20)
    upload(client, model_id, tmp_path / "model")
    assert uploaded(client, model_id) == sizes


def test_several_files_are_sent_at_a_time(
    client: MlflowClient, model_id: str, mlflow_proxy: Proxy, tmp_path: Path
) -> None:
    together = threading.Barrier(AT_A_TIME, timeout=100)

    def wait_for_the_others(exchange: Exchange) -> None:
        together.wait()
        exchange.send(exchange.forward())

    sizes = write(tmp_path / "model", 2 * AT_A_TIME)
    mlflow_proxy.next(lambda exchange: exchange.send(exchange.forward()), **PUT)  # the first goes by itself
    mlflow_proxy.next(wait_for_the_others, **PUT, times=AT_A_TIME)
    upload(client, model_id, tmp_path / "model")
    assert not together.broken
    assert uploaded(client, model_id) == sizes


@pytest.mark.parametrize("number", [0, 1])
def test_few_files_or_none_are_no_special_case(
    client: MlflowClient, model_id: str, tmp_path: Path, number: int
) -> None:
    (tmp_path / "model").mkdir()
    for each in range(number):
        (tmp_path / "model" / f"{each}").write_bytes(b"x")
    upload(client, model_id, tmp_path / "model")
    assert len(uploaded(client, model_id)) == number


@pytest.mark.acceptance
def test_a_file_that_is_not_taken_ends_the_upload(
    model: str, mlflow_proxy: Proxy, tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flavor_package.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    manifest, files = flavor_package.make_version(tmp_path, model, "v1.0.0", "a")
    digest, store = sha256(manifest.to_bytes()), "s3://bucket/prefix"
    mlflow_proxy.next(faults.refuse, method="PUT", containing="a.txt", times=99)
    with pytest.raises(UloraError):
        Catalog(mlflow_proxy.url, store).log(manifest, digest, files)
    mlflow_proxy.clear()
    logged = Catalog(mlflow_proxy.url, store).log(manifest, digest, files)
    client = MlflowClient(tracking_uri=tracking_uri)
    names = [path.rpartition("/")[2] for path in uploaded(client, str(logged.model_id))]
    assert {"a.txt", "b.txt", "version.json", "MLmodel"} <= set(names)
    assert len(client.search_logged_models([client.get_experiment_by_name(model).experiment_id])) == 1

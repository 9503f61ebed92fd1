"""The MLflow model of a version: plain MLflow loads and serves it, and it answers as the version itself does."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.api import Registry
from registry.devstack.server import INSTANCE_HEADER, Server
from registry.errors import LoadFailed
from tests.conftest import TrackingServer
from tests.support.built_wheel import build_wheel, pip
from tests.support.bundles import add_goldens, png, write_bundle
from tests.support.registries import open_registry

CHECKOUT = Path(__file__).parents[2]
V2, V3 = "v1.0.0-dinov2", "v1.1.0-dinov3"
IMAGES = [png(seed) for seed in range(4)]


@pytest.fixture
def released(store_url: str, model: str, tmp_path: Path, tracking_uri: str) -> Registry:
    """A version of each family, with recorded outputs; the DINOv3 one is in production."""
    registry = open_registry(tmp_path, store_url, model, tracking_uri=tracking_uri)
    registry.store.initialise()
    for name, family in ((V2, "dinov2"), (V3, "dinov3")):
        registry.create(name, add_goldens(write_bundle(tmp_path / name, family=family, targets=("low", "mid"))))
    assert registry.promote(V3, "production").notes == ()
    return registry


def table(images: list[bytes]) -> dict[str, Any]:
    """What MLflow's model takes: a table with the column image, in base64."""
    return {"columns": ["image"], "data": [[base64.b64encode(image).decode()] for image in images]}


def expected(registry: Registry, name: str) -> list[dict[str, Any]]:
    """What the version itself answers."""
    return [prediction.to_dict() for prediction in registry.load(name).predict(IMAGES)]


def same(rows: list[dict[str, Any]], predictions: list[dict[str, Any]]) -> None:
    """Check that MLflow's rows say what the predictions say."""
    assert len(rows) == len(predictions)
    for row, prediction in zip(rows, predictions, strict=True):
        for name in ("version", "target", "label", "outcome"):
            assert row[name] == (prediction[name] or "")
        assert row["is_ood"] == prediction["is_ood"]
        score = -1.0 if prediction["ood_score"] is None else prediction["ood_score"]
        for name, value in (prediction | {"ood_score": score}).items():
            if name in ("confidence", "ood_score", "target_confidence"):
                assert row[name] == pytest.approx(value, abs=1e-4)


@pytest.mark.acceptance
def test_both_families_load_in_one_process_and_predict_the_same(released: Registry) -> None:
    import mlflow
    import pandas

    frame = pandas.DataFrame(**{key: value for key, value in table(IMAGES).items()})
    for alias, name in (("v1_0_0-dinov2", V2), ("v1_1_0-dinov3", V3), ("production", V3)):
        loaded = mlflow.pyfunc.load_model(f"models:/{released.model}@{alias}")
        rows = loaded.predict(frame).to_dict("records")
        same(rows, expected(released, name))
        assert {row["version"] for row in rows} == {name}


@pytest.mark.acceptance
def test_an_image_that_is_none_spoils_its_own_row_only(released: Registry) -> None:
    import mlflow
    import pandas

    loaded = mlflow.pyfunc.load_model(f"models:/{released.model}@production")
    images = [*table(IMAGES[:1])["data"], ["no image"], ["!"]]
    good, *bad = loaded.predict(pandas.DataFrame(images, columns=["image"])).to_dict("records")
    assert good["label"]
    assert {row["label"] for row in bad} == {""}
    assert {row["outcome"] for row in bad}.isdisjoint({good["outcome"]})


# --- from a clean environment ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution, built from a copy of this checkout."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed distribution, to be put before this checkout on the path."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", wheel, "--no-index", "--target", folder)
    return folder


def test_the_wheel_holds_what_runs_and_no_test(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {
        "adapters",
        "benchmarks",
        "registry",
    }
    assert not [name for name in names if "test" in name.lower().split("/")[0] or name.endswith((".pyc", ".md"))]
    for needed in (
        "registry/py.typed",
        "registry/evidence/default_policy.yaml",
        "registry/evidence/aads_policy.yaml",
        "adapters/tiny/dinov2-tiny/model.safetensors",
        "adapters/tiny/dinov3-tiny/model.safetensors",
        "adapters/tiny/dinov3-tiny/config.json",
    ):
        assert needed in names
    entry_points = next(name for name in names if name.endswith("entry_points.txt"))
    assert "ulora = registry.__main__:main" in zipfile.ZipFile(wheel).read(entry_points).decode()


class ModelServer(Server):
    """`mlflow models serve` on a registered model."""

    name = "models"
    failure = LoadFailed

    def __init__(self, folder: Path, model_uri: str, env: dict[str, str]) -> None:
        super().__init__(folder)
        self._model_uri = model_uri
        self._env = env

    @property
    def env(self) -> dict[str, str]:
        return {}

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", self._model_uri]
        return [*command, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]

    def _child_env(self) -> dict[str, str]:
        return self._env | {"UVICORN_HEADERS": f"{INSTANCE_HEADER}:{self._instance}"}

    def _answers(self) -> bool:
        return self._repeats_instance("/ping")


@pytest.fixture
def served(released: Registry, site: Path, tmp_path: Path, mlflow_server: TrackingServer) -> Iterator[tuple[str, Path]]:
    """`mlflow models serve` of production, started elsewhere, with the installed package and without the hub."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ULORA_", "AWS_"))}
    env |= {
        "PYTHONPATH": str(site),
        # MLflow starts `uvicorn` by its name.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": mlflow_server.url,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "empty-hub"),
        "OMP_NUM_THREADS": "1",
    }
    said = subprocess.run(
        [sys.executable, "-c", "import adapters, registry; print(adapters.__file__); print(registry.__file__)"],
        cwd=elsewhere, env=env, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert [Path(path).is_relative_to(site) for path in said] == [True, True]
    server = ModelServer(elsewhere, f"models:/{released.model}@production", env)
    try:
        yield f"{server.start().url}/invocations", server.log
    finally:
        server.kill()


@pytest.mark.acceptance
def test_mlflow_serves_a_version_from_the_installed_package(released: Registry, served: tuple[str, Path]) -> None:
    url, log = served
    body = json.dumps({"dataframe_split": table(IMAGES)}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as reply:
            rows = json.load(reply)["predictions"]
    except urllib.error.HTTPError as error:
        pytest.fail(f"{error.read()!r}\n{log.read_text()}")
    same(rows, expected(released, V3))

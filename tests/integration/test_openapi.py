"""The OpenAPI page says what a replica takes and answers: every path is on it, and schemathesis finds nothing false."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from registry.names import is_target_name
from registry.serving.follow import Live
from registry.serving.http.options import HttpOptions
from registry.serving.http.request_body import TARGET_PATTERN
from registry.serving.http.rights import OPEN_PATHS
from registry.serving.options import LiveOptions
from registry.store.objects import ObjectStore
from registry.versions.bundle import DEFAULT_FLAVOR
from tests.support.bundles import png, write_bundle
from tests.support.echo_releases import Shop
from tests.support.pages import ROOT
from tests.support.running_app import running

PATHS = {
    "/predict", "/predict/batch", "/health", "/health/live", "/health/ready", "/version", "/-/refresh", "/v2",
    "/feedback",
    "/v1/crops", "/v1/adapters/{crop}/status", "/v1/diagnose", "/v2/health/live", "/v2/health/ready",
    "/v2/models/{model}", "/v2/models/{model}/ready", "/v2/models/{model}/infer",
    "/v2/models/{model}/versions/{version}", "/v2/models/{model}/versions/{version}/ready",
    "/v2/models/{model}/versions/{version}/infer",
}  # fmt: skip


@pytest.fixture
def http(store_url: str, model: str, tmp_path: Path) -> Iterator[httpx.Client]:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0", write_bundle(tmp_path / "v1"), flavor=DEFAULT_FLAVOR)
    shop.promote("v1.0.0")
    keys = tmp_path / "fleet.keys"
    keys.write_text("the-key-of-this-fleet\n")
    with (
        Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(deadline=600)) as live,
        running(live, HttpOptions(fleet_key_file=keys)) as client,
    ):
        yield client


def test_every_path_is_on_the_page_with_its_errors(http: httpx.Client) -> None:
    page = http.get("/openapi.json").json()
    assert page["paths"].keys() == PATHS
    for path, operations in page["paths"].items():
        for operation in operations.values():
            assert {"500", "503"} <= operation["responses"].keys(), path
            assert ("401" in operation["responses"]) == ("security" in operation) == (path not in OPEN_PATHS)
            for answer in operation["responses"].values():
                assert answer["content"]["application/json"]["schema"], path
            named = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
    assert "$ref" not in str(page)
    assert page["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}


@pytest.mark.parametrize(
    "name", ["", "low", "tomato__leaf", "sweet_corn", "Tomato", "a__b__c", "_a", "a_", "a__", "a___b", "a-b", "é"]
)
def test_the_page_knows_what_a_target_is(name: str) -> None:
    assert bool(re.fullmatch(TARGET_PATTERN, name)) == (not name or is_target_name(name))


@pytest.mark.acceptance
def test_schemathesis_finds_nothing_false_on_the_page(http: httpx.Client, model: str, tmp_path: Path) -> None:
    words = ["run", f"{http.base_url}/openapi.json", "--checks", "all", "--max-examples", "30", "--seed", "1"]
    receipt = http.post("/predict", files={"image": png(1)}).json()["request_id"]
    settings = {
        "SCHEMATHESIS_HOOKS": "tests.support.openapi_hooks", "PYTHONPATH": str(ROOT), "ULORA_MODEL": model,
        "ULORA_RECEIPT": receipt,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", *words, "--no-color"],
        cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr

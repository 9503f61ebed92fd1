"""The endpoints that apps of the older system call, answered by a real version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.serving.follow import Live
from registry.serving.http.older_endpoints import ROUTER_ACCURACY_TARGET
from registry.serving.loaders import load_version
from registry.serving.options import LiveOptions
from registry.store.objects import ObjectStore
from registry.versions.bundle import DEFAULT_FLAVOR
from tests.support.bundles import write_bundle
from tests.support.echo_releases import Shop, find_echo
from tests.support.http_batches import as_text, noise_png
from tests.support.running_app import running

IMAGE = noise_png(1)


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0", write_bundle(tmp_path / "v1", family="dinov3"), flavor=DEFAULT_FLAVOR)
    shop.promote("v1.0.0")
    return shop


@pytest.fixture
def http(shop: Shop) -> Iterator[httpx.Client]:
    with Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(deadline=600)) as live, running(live) as client:
        yield client


def test_the_older_endpoints_tell_what_is_loaded(shop: Shop, http: httpx.Client) -> None:
    manifest = shop.pointer("v1.0.0").manifest_sha256
    loaded = load_version(shop.versions, shop.blobs, shop.pointer("v1.0.0"))
    crops = http.get("/v1/crops").json()
    assert crops == {
        "crops": ["high", "low", "mid"], "router_accuracy_target": ROUTER_ACCURACY_TARGET,
        "manifest_sha256": manifest, "version": "v1.0.0",
    }  # fmt: skip
    for crop in crops["crops"]:
        labels = list(loaded.labels[crop])
        assert http.get(f"/v1/adapters/{crop}/status").json() == {
            "crop": crop, "is_trained": True, "current_phase": None, "num_classes": len(labels), "classes": labels,
            "has_ood": True, "manifest_sha256": manifest, "version": "v1.0.0",
        }  # fmt: skip
    missing = http.get("/v1/adapters/kiwi/status")
    assert (missing.status_code, missing.json()["error"], missing.json()["version"]) == (404, "NotFound", "v1.0.0")
    health = http.get("/health").json()
    assert {name: health[name] for name in ("status", "router_loaded", "adapters_loaded", "device")} == {
        "status": "healthy", "router_loaded": True, "adapters_loaded": ["high", "low", "mid"], "device": "cpu",
    }  # fmt: skip


def app_sends(**more: Any) -> dict[str, Any]:
    return {
        "image": as_text(IMAGE),
        "location": {"latitude": 41.0, "longitude": 28.9, "accuracy_meters": 10.0},
        "metadata": {"capture_timestamp": "2026-03-15T14:30:00Z", "device_model": "iPhone14,2", "os_version": "17.4"},
    } | more


def test_diagnose_answers_as_predict_does(shop: Shop, http: httpx.Client) -> None:
    for hint in ("mid", "MID", None, "kiwi"):
        target = {"target": "mid"} if str(hint).lower() == "mid" else {}
        alone = http.post("/predict", content=IMAGE, params=target, headers={"Content-Type": "image/png"}).json()
        found = http.post("/v1/diagnose", json=app_sends(crop_hint=hint)).json()
        assert (found["status"], found["version"]) == ("success", "v1.0.0")
        assert found["crop"]["predicted"] == alone["target"], hint
        assert found["crop"]["confidence"] == pytest.approx(alone["target_confidence"], abs=1e-3)
        assert found["outcome"] == alone["outcome"]
        if alone["label"]:
            assert found["disease"]["name"] == alone["label"]
            assert found["disease"]["class_index"] in range(4)
        assert found["ood_analysis"]["is_ood"] == alone["is_ood"]


WRONG: list[dict[str, Any]] = [
    {"image": ""}, {"image": "no base64"}, {"image": as_text(b"no image")}, {"image": None}, {"image": 5},
    {"crop_hint": "k" * 300}, {"location": {"latitude": 91}}, {"location": "here"},
    {"location": {"longitude": "x"}},
    {"metadata": {"device_model": "d" * 300}}, {"metadata": []},
]  # fmt: skip


def test_what_no_app_sends_is_refused(http: httpx.Client) -> None:
    for wrong in WRONG:
        answer = http.post("/v1/diagnose", json=app_sends(**wrong))
        assert (answer.status_code, bool(answer.json()["message"])) == (400, True), wrong


def test_a_flavor_that_tells_less_is_told_as_it_is(store_url: str, model: str, tmp_path: Path) -> None:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    with (
        Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(find=find_echo, deadline=600)) as live,
        running(live) as http,
    ):
        assert http.get("/v1/adapters/low/status").json()["has_ood"] is None
        assert http.post("/v1/diagnose", json={"image": as_text(b"leaf")}).json()["outcome"] == "answer"
        assert http.post("/v1/diagnose", content=b"x").status_code == 415
        live.close()
        assert http.get("/v1/crops").status_code == 503
        assert http.get("/health").json()["status"] == "unhealthy"

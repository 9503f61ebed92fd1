"""What a replica says about itself over HTTP: restart it? send requests here? what answers?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.errors import LoadFailed
from registry.serving.follow import Live
from registry.serving.http.options import HttpOptions
from registry.serving.options import LiveOptions
from registry.store.objects import ObjectStore
from tests.support.batch_flavor import Controls, TogetherEcho
from tests.support.echo_releases import Shop, load_echo, wait_until
from tests.support.running_app import running


@pytest.fixture
def controls() -> Iterator[Controls]:
    controls = Controls()
    yield controls
    controls.computing.set()


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    return shop


def follow(shop: Shop, controls: Controls, **more: Any) -> Live:
    def load(manifest: Any, files: Any, **how: Any) -> TogetherEcho:
        weights = load_echo(manifest, files).weights
        return TogetherEcho(manifest.version, manifest.content_sha256, weights, controls=controls)

    return Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(find=lambda flavor: load, deadline=600, **more))


def statuses(http: httpx.Client) -> tuple[int, int, int]:
    """Of liveness, readiness and health; HEAD has the same."""
    paths = ("/health/live", "/health/ready", "/health")
    found = tuple(http.get(path).status_code for path in paths)
    assert found == tuple(http.head(path).status_code for path in paths)
    return found  # type: ignore[return-value]


def test_a_replica_that_works_is_live_and_ready(shop: Shop, controls: Controls) -> None:
    with follow(shop, controls) as live, running(live) as http:
        assert statuses(http) == (200, 200, 200)
        assert http.get("/health/live").json() == {"live": True, "error": "", "version": "v1.0.0"}
        assert http.get("/health/ready").json() == {"ready": True, "state": "serving", "version": "v1.0.0"}
        for path in ("/health/live", "/health/ready", "/health", "/version", "/nowhere"):
            assert http.get(path).headers["X-Ulora-Version"] == "v1.0.0"
            assert http.get(path).headers["X-Ulora-Arm"] == "stable"
        assert http.get("/version").json()["manifest_sha256"] == shop.pointer("v1.0.0").manifest_sha256


def test_no_store_and_no_version_ask_for_a_restart(shop: Shop, controls: Controls) -> None:
    with follow(shop, controls, max_staleness=-1) as live, running(live) as http:
        assert statuses(http) == (200, 503, 503)
        live.close()
        assert statuses(http) == (200, 503, 503)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_computing_thread_asks_for_a_restart(shop: Shop, controls: Controls) -> None:
    with follow(shop, controls) as live, running(live) as http:

        def die(rows: object) -> None:
            raise SystemExit  # ends a thread without a traceback

        live.scheduler._answer = die  # type: ignore[method-assign]
        live.submit(b"a")
        wait_until(lambda: "ulora-compute" not in [thread.name for thread in threading.enumerate()])
        assert statuses(http) == (503, 503, 503)
        assert "restart this replica" in http.get("/health/live").json()["error"]
        assert "restart this replica" in http.get("/health").json()["error"]


def test_a_batch_that_hangs_asks_for_a_restart(shop: Shop, controls: Controls) -> None:
    with follow(shop, controls) as live, running(live, HttpOptions(compute_limit=0.01)) as http:
        wait_until(lambda: live.scheduler.busy_seconds == 0)
        assert statuses(http) == (200, 200, 200)
        controls.computing.clear()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(http.post, "/predict", content=b"a", headers={"Content-Type": "image/png"})
            wait_until(lambda: live.scheduler.busy_seconds > 0.01)
            assert statuses(http) == (503, 503, 503)
            controls.computing.set()
            assert asked.result().status_code == 200
        wait_until(lambda: live.scheduler.busy_seconds == 0)
        assert statuses(http) == (200, 200, 200)


def test_readers_that_all_hang_ask_for_a_restart(shop: Shop, controls: Controls) -> None:
    with follow(shop, controls) as live, running(live, HttpOptions(compute_limit=0.01)) as http:
        wait_until(lambda: live.scheduler.busy_seconds == 0)
        controls.reading.clear()
        asked = [live.submit(b"a") for _ in range(64)]
        wait_until(lambda: live.scheduler.busy_seconds > 0.01)
        assert statuses(http) == (503, 503, 503)
        assert http.get("/health").json()["compute"] > 0.01
        controls.reading.set()
        assert {future.result().version for future in asked} == {"v1.0.0"}
        wait_until(lambda: live.scheduler.busy_seconds == 0)
        assert statuses(http) == (200, 200, 200)


@pytest.mark.acceptance
def test_first_batches_that_hang_end_the_start(shop: Shop, controls: Controls) -> None:
    controls.computing.clear()
    with pytest.raises(LoadFailed, match=r"its first batches were not computed within 0\.1 s"):
        follow(shop, controls, self_test_seconds=0.1).start()
    controls.computing.set()


def test_first_batches_that_hang_are_seen_while_they_do(shop: Shop, controls: Controls) -> None:
    controls.computing.clear()
    live = follow(shop, controls)
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(live.start)
        wait_until(lambda: live.health().loading.startswith("computing the first batches for "))
        assert live.health().state == "starting"
        controls.computing.set()
        started.result()
    assert live.health().loading == ""
    live.close()


def test_no_error_of_the_first_batches_ends_the_thread(shop: Shop, controls: Controls) -> None:
    class Unlucky(TogetherEcho):
        def begin_computing(self) -> None:
            super().begin_computing()
            if len(controls.began) == 1:
                raise SystemExit

    def load(manifest: Any, files: Any, **how: Any) -> Unlucky:
        return Unlucky(manifest.version, manifest.content_sha256, b"", controls=controls)

    options = LiveOptions(find=lambda flavor: load, deadline=600)
    with Live(shop.channel(), shop.versions, shop.blobs, options) as live:
        assert live.predict(b"a").version == "v1.0.0"
        assert not live.scheduler.has_died

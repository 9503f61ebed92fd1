"""Many clients at once over HTTP: equal answers, refusals in time, and nothing computed for those who left."""

from __future__ import annotations

import gc
import io
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from registry.serving.follow import Live
from registry.serving.loaders import load_version
from registry.serving.options import LiveOptions
from registry.serving.pace import SIZES, Pace
from registry.store.objects import ObjectStore
from registry.versions.bundle import DEFAULT_FLAVOR
from tests.support.batch_flavor import Controls, TogetherEcho
from tests.support.bundles import write_bundle
from tests.support.echo_releases import Shop, load_echo, wait_until
from tests.support.equal_answers import assert_equal_answers
from tests.support.running_app import running

CLIENTS = 32
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    return Shop(ObjectStore(store_url), model, tmp_path)


@pytest.fixture
def controls() -> Iterator[Controls]:
    controls = Controls()
    yield controls
    controls.computing.set()


@pytest.fixture
def live(shop: Shop, controls: Controls) -> Iterator[Live]:
    """A replica of a version whose computing the test controls."""

    def load(manifest: Any, files: Any, **how: Any) -> TogetherEcho:
        return TogetherEcho(
            manifest.version, manifest.content_sha256, load_echo(manifest, files).weights, controls=controls
        )

    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    options = LiveOptions(find=lambda flavor: load, max_batch=4, waiting_bytes=10_000, deadline=600)
    with Live(shop.channel(), shop.versions, shop.blobs, options) as live:
        wait_until(lambda: live.scheduler.busy_seconds == 0)
        controls.batches.clear()
        controls.at_work.clear()
        yield live


@pytest.fixture
def http(live: Live) -> Iterator[httpx.Client]:
    with running(live) as client:
        yield client


def post(http: httpx.Client, image: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.post("/predict", content=image, headers={"Content-Type": "image/png", **named})


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.acceptance
def test_many_clients_get_the_answers_of_quiet_times(shop: Shop, tmp_path: Path) -> None:
    shop.release("v1.0.0", write_bundle(tmp_path / "v1", family="dinov3"), flavor=DEFAULT_FLAVOR)
    shop.promote("v1.0.0")
    images, targets = [jpeg(seed) for seed in range(8)], (None, "low", "mid")
    loaded = load_version(shop.versions, shop.blobs, shop.pointer("v1.0.0"))
    asked = [(image, target) for image in images for target in targets] * 8
    quiet = {each: loaded.predict(each[0], target=each[1]) for each in set(asked)}
    with Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(deadline=600)) as live, running(live) as http:
        assert live.health().max_batch in SIZES

        def ask(each: tuple[bytes, str | None]) -> httpx.Response:
            query = {"target": each[1]} if each[1] else {}
            return http.post("/predict", content=each[0], params=query, headers={"Content-Type": "image/jpeg"})

        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(ask, asked))
    for each, answer in zip(asked, answers, strict=True):
        assert answer.status_code == 200
        assert_equal_answers(answer.json(), quiet[each].to_dict())


def test_an_overloaded_replica_says_when_to_come_again(live: Live, http: httpx.Client, controls: Controls) -> None:
    controls.computing.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(post, http, b"a")
        assert controls.at_work.wait(60)
        live.scheduler._pace = Pace(4, {4: 100.0})
        others = [pool.submit(post, http, b"b") for _ in range(4)]
        wait_until(lambda: live.scheduler.queued == 4)
        refused = post(http, b"c", X_Request_Timeout_Ms="199000")
        assert (refused.status_code, refused.json()["error"]) == (429, "Overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.headers["X-Ulora-Version"] == refused.json()["version"] == "v1.0.0"
        health = http.get("/health").json()
        assert (health["max_batch"], health["queued"]) == (4, 4)
        assert health["compute"] > 0
        controls.computing.set()
        assert {each.result().status_code for each in (first, *others)} == {200}
    assert controls.batches[0] == [b"a"]
    assert [image for batch in controls.batches[1:] for image in batch] == [b"b"] * 4


def test_a_request_that_waits_too_long_is_not_computed(live: Live, http: httpx.Client, controls: Controls) -> None:
    controls.computing.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, http, b"a")
        assert controls.at_work.wait(60)
        live.scheduler._pace = Pace(4, {4: 0.2})
        late = post(http, b"b", X_Request_Timeout_Ms="450")
        # It is refused at once if the first batch has already taken so long that it seems to hang.
        assert (late.status_code, late.json()["error"]) in ((504, "Expired"), (429, "Overloaded"))
        wait_until(lambda: live.scheduler.queued == 0)
        controls.computing.set()
        assert first.result().status_code == 200
    assert controls.batches == [[b"a"]]


def test_a_deadline_that_passes_while_it_is_read_is_a_504(live: Live, http: httpx.Client, controls: Controls) -> None:
    controls.reading.clear()
    late = post(http, b"a", X_Request_Timeout_Ms="1")
    assert (late.status_code, late.json()["error"]) == (504, "Expired")
    controls.reading.set()
    wait_until(lambda: live.scheduler.budget.taken == 0)
    assert controls.batches == []


@pytest.mark.parametrize("asked", ["", "0", "-5", "1.5", "soon", "600001", "9" * 30, "²"])
def test_an_invalid_deadline_is_refused(http: httpx.Client, asked: str) -> None:
    answer = http.post(
        "/predict", content=b"a", headers={"Content-Type": "image/png", "X-Request-Timeout-Ms": asked.encode()}
    )
    assert (answer.status_code, answer.json()["error"]) == (400, "BadInput")


def test_a_client_that_went_away_is_not_computed(live: Live, http: httpx.Client, controls: Controls) -> None:
    controls.computing.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, http, b"a")
        assert controls.at_work.wait(60)
        with socket.create_connection((http.base_url.host, http.base_url.port)) as gone:
            gone.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 4\r\n\r\ngone"
            )
            wait_until(lambda: live.scheduler.queued == 1)
        wait_until(lambda: live.scheduler.queued == 0)
        controls.computing.set()
        assert first.result().status_code == 200
    assert post(http, b"b").status_code == 200
    assert controls.batches == [[b"a"], [b"b"]]


def test_bodies_that_arrive_together_have_bounded_memory(live: Live, http: httpx.Client) -> None:
    host, port = str(http.base_url.host), http.base_url.port
    with socket.create_connection((host, port)) as slow:
        slow.sendall(HEAD + b"Content-Length: 9000\r\n\r\n" + b"x" * 8000)
        wait_until(lambda: live.scheduler.budget.taken == 8000)
        refused = post(http, b"x" * 3000)
        assert (refused.status_code, refused.json()["error"]) == (429, "Overloaded")
        assert post(http, b"x" * 100).status_code == 200
    wait_until(lambda: live.scheduler.budget.taken == 0)
    assert post(http, b"x" * 3000).status_code == 200


def resident_bytes() -> int:
    """The memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.acceptance
def test_hundreds_of_flips_leave_nothing_behind(shop: Shop, live: Live, http: httpx.Client) -> None:
    shop.release("v1.1.0")
    shop.promote("v1.1.0")
    assert live.wait_for(version="v1.1.0", timeout=300)
    assert post(http, b"a").json()["version"] == "v1.1.0"
    wait_until(lambda: live.health().rollback_ready)
    threads = threading.active_count()
    handles = memory = 0
    for number in range(150):
        if number == 50:  # what is made once has been made
            handles, memory = open_handles(), resident_bytes()
        for move in (shop.rollback, lambda: shop.promote("v1.1.0")):
            record = move()
            live.refresh()
            assert live.wait_for(generation=record.generation, timeout=300)
            assert post(http, b"a").json()["version"] == record.stable.version
    assert live.health().resident == ("v1.0.0", "v1.1.0")
    assert live.scheduler.budget.taken == 0
    wait_until(lambda: threading.active_count() <= threads)
    wait_until(lambda: open_handles() <= handles)
    assert resident_bytes() < memory + 16 * 1024 * 1024


def test_callers_in_threads_share_batches_with_clients(live: Live, http: httpx.Client, controls: Controls) -> None:
    controls.computing.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, http, b"a")
        assert controls.at_work.wait(60)
        listed = pool.submit(live.predict, [b"b", b"c"], target=["low", None])
        wait_until(lambda: live.scheduler.queued == 2)
        other = pool.submit(post, http, b"d")
        wait_until(lambda: live.scheduler.queued == 3 and all(row.prepared for row in list(live.scheduler._waiting)))
        controls.computing.set()
        assert [answer.version for answer in listed.result()] == ["v1.0.0", "v1.0.0"]
        assert first.result().status_code == other.result().status_code == 200
    assert controls.batches == [[b"a"], [b"b", b"c", b"d"]]

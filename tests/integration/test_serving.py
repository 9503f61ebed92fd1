"""Serving real versions on a real store: changes under load, and the HTTP service."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from registry.errors import BadSetting, CorruptBlob
from registry.serving.fleet import replicas
from registry.serving.follow import Live, LiveOptions
from registry.serving.http.options import HttpOptions
from registry.serving.http.request_body import MAX_IMAGE
from registry.serving.http.server import serve
from registry.serving.loaders import Prediction, load_version
from registry.store.blobs import Blobs
from registry.store.objects import ObjectStore
from registry.versions.bundle import DEFAULT_FLAVOR
from tests.support.bundles import write_bundle
from tests.support.echo_releases import Shop, find_echo, load_echo, wait_until
from tests.support.equal_answers import assert_equal_answers
from tests.support.running_app import running
from tests.support.unwritable_folder import no_right_to_write

FAMILIES = {"v5.5.3-performance": "dinov2", "v5.5.4-dinov3": "dinov3"}
V2, V3 = FAMILIES


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


IMAGES = [png(seed) for seed in range(6)]


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    """A model with a DINOv2 and a DINOv3 version; production serves the second, and before that the first."""
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    for name, family in FAMILIES.items():
        shop.release(name, write_bundle(tmp_path / name, family=family), flavor=DEFAULT_FLAVOR)
        shop.promote(name)
    return shop


@pytest.fixture
def live(shop: Shop) -> Iterator[Live]:
    with Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(poll=0.02, retry=0.05, deadline=600)) as live:
        yield live


@pytest.fixture
def quiet(shop: Shop) -> dict[tuple[str, int], Prediction]:
    """What each version answers for each image without load."""
    answers: dict[tuple[str, int], Prediction] = {}
    for name in FAMILIES:
        loaded = load_version(shop.versions, shop.blobs, shop.pointer(name))
        answers |= {(name, number): loaded.predict([image])[0] for number, image in enumerate(IMAGES)}
    return answers


class Load:
    """Threads that send requests all the time, and all answers that they got."""

    def __init__(self, live: Live, threads: int = 4) -> None:
        self._live = live
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(threads)
        self._threads = threads
        self.answers: list[tuple[int, Prediction]] = []

    def __enter__(self) -> Load:
        self._runs = [self._pool.submit(self._ask, start) for start in range(self._threads)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for run in self._runs:
            run.result()
        self._pool.shutdown()

    def more(self, count: int = 8) -> None:
        """Return when so many more answers came."""
        enough = len(self.answers) + count
        wait_until(lambda: len(self.answers) >= enough or any(run.done() for run in self._runs), 60)

    def _ask(self, number: int) -> None:
        while not self._stop.is_set():
            number = (number + 1) % len(IMAGES)
            self.answers.append((number, self._live.predict(IMAGES[number])))


def test_changes_under_load_fail_no_request_and_mix_no_answer(
    shop: Shop, live: Live, quiet: dict[tuple[str, int], Prediction]
) -> None:
    with Load(live) as load:
        for _ in range(4):
            load.more()
            record = shop.rollback()
            assert live.wait_for(version=V2, generation=record.generation, timeout=300)
            load.more()
            record = shop.promote(V3)
            assert live.wait_for(version=V3, generation=record.generation, timeout=300)
        load.more()
    assert {answer.version for _, answer in load.answers} == {V2, V3}
    for number, answer in load.answers:
        assert_equal_answers(answer.to_dict(), quiet[answer.version, number].to_dict())


@pytest.mark.acceptance
def test_a_load_beside_the_live_version_disturbs_no_answer(
    shop: Shop, live: Live, quiet: dict[tuple[str, int], Prediction], tmp_path: Path
) -> None:
    shop.release("v5.6.0", write_bundle(tmp_path / "new", seed=7), flavor=DEFAULT_FLAVOR)
    with Load(live) as load:
        load.more()
        shop.promote("v5.6.0")
        assert live.wait_for(version="v5.6.0", timeout=300)
        load.more()
    assert {answer.version for _, answer in load.answers} == {V3, "v5.6.0"}
    for number, answer in load.answers:
        if answer.version != "v5.6.0":
            assert_equal_answers(answer.to_dict(), quiet[V3, number].to_dict())


def test_a_flipped_byte_is_refused_by_follow_and_by_load(shop: Shop, live: Live, tmp_path: Path) -> None:
    shop.release("v5.6.0", write_bundle(tmp_path / "new", seed=7), flavor=DEFAULT_FLAVOR)
    repair = shop.flip_a_byte("v5.6.0", "adapters/mid/head.safetensors")
    with pytest.raises(CorruptBlob):
        load_version(shop.versions, shop.blobs, shop.pointer("v5.6.0"))
    with Load(live, threads=2) as load:
        shop.promote("v5.6.0")
        wait_until(lambda: "SHA-256 mismatch" in live.health().error)
        load.more()
    assert {answer.version for _, answer in load.answers} == {V3}
    repair()
    assert live.wait_for(version="v5.6.0", timeout=300)


def test_a_cache_that_may_not_be_written_is_no_reason_to_stop(store_url: str, model: str, tmp_path: Path) -> None:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    cache = tmp_path / "elsewhere"
    cache.mkdir()
    with (
        no_right_to_write(cache),
        Live(
            shop.channel(), shop.versions, Blobs(shop.store, cache), LiveOptions(find=find_echo, deadline=600)
        ) as live,
    ):
        assert live.predict(b"leaf").version == "v1.0.0"
    assert list(cache.iterdir()) == []


def test_a_batch_is_answered_by_one_version_row_by_row(live: Live) -> None:
    answers = live.predict([*IMAGES, b"no image"], target=["low", "mid", "high", None, "low", "kiwi", None])
    assert {answer.version for answer in answers} == {V3}
    assert [answer.outcome for answer in answers[-2:]] == ["no_adapter", "corrupt_image"]


# --- over HTTP -------------------------------------------------------------------------------------------------------


@pytest.fixture
def http(live: Live) -> Iterator[httpx.Client]:
    with running(live) as client:
        yield client


def problem(answer: httpx.Response) -> tuple[int, str]:
    document = answer.json()
    assert document["message"]
    assert "hint" in document
    assert document["version"] == answer.headers["X-Ulora-Version"]
    return answer.status_code, document["error"]


def test_an_image_is_answered_whichever_way_it_is_sent(
    http: httpx.Client, quiet: dict[tuple[str, int], Prediction]
) -> None:
    form = http.post("/predict", files={"image": ("leaf.png", IMAGES[0], "image/png")})
    body = http.post("/predict", content=IMAGES[0], headers={"Content-Type": "image/png"})
    assert form.status_code == body.status_code == 200
    assert form.headers["X-Ulora-Version"] == body.headers["X-Ulora-Version"] == V3
    for answer in (form.json(), body.json()):
        assert_equal_answers(answer, quiet[V3, 0].to_dict())


@pytest.mark.parametrize("where", ["form", "query"])
def test_the_target_may_be_named(http: httpx.Client, where: str) -> None:
    named: dict[str, Any] = {"data": {"target": "mid", "key": "user-7"}}
    if where == "query":
        named = {"params": {"target": "mid", "key": "user-7"}}
    answer = http.post("/predict", files={"image": IMAGES[1]}, **named).json()
    assert (answer["target"], answer["target_confidence"]) == ("mid", 1.0)


def test_bad_requests_get_one_clear_answer(http: httpx.Client) -> None:
    assert problem(http.post("/predict", files={"image": b"no image"})) == (400, "BadImage")
    assert problem(http.post("/predict", files={"image": IMAGES[0][:60]})) == (400, "BadImage")
    assert problem(http.post("/predict", files={"image": b""})) == (400, "BadImage")
    assert problem(http.post("/predict", files={"picture": IMAGES[0]})) == (400, "BadInput")
    assert problem(http.post("/predict", data={"image": "text"}, files={"x": b"x"})) == (400, "BadInput")
    assert problem(http.post("/predict", json={"image": ""})) == (415, "BadInput")
    assert problem(http.post("/predict")) == (415, "BadInput")
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert problem(http.post("/predict", content=b"--y\r\n\r\n", headers=broken)) == (400, "BadInput")
    no_boundary = {"Content-Type": "multipart/form-data"}
    assert problem(http.post("/predict", content=b"--y\r\n\r\n", headers=no_boundary)) == (400, "BadInput")
    image = {"files": {"image": IMAGES[0]}}
    assert problem(http.post("/predict", params={"target": "../tomato"}, **image)) == (400, "BadInput")
    assert problem(http.post("/predict", params={"key": "k" * 1000}, **image)) == (400, "BadInput")
    assert problem(http.post("/predict", params={"target": "t" * 1000}, **image)) == (400, "BadInput")
    assert problem(http.get("/predict")) == (405, "HTTPError")
    assert problem(http.get("/nowhere")) == (404, "HTTPError")


@pytest.mark.parametrize("name", ["key", "target"])
def test_a_field_that_is_no_single_text_is_refused(http: httpx.Client, name: str) -> None:
    image = ("image", ("leaf.png", IMAGES[0], "image/png"))
    twice = [image, (name, (None, "low")), (name, (None, "mid"))]
    assert problem(http.post("/predict", files=twice)) == (422, "BadInput")
    assert problem(http.post(f"/predict?{name}=low&{name}=mid", files=[image])) == (422, "BadInput")
    png = {"Content-Type": "image/png"}
    assert problem(http.post(f"/predict?{name}=low&{name}=low", content=IMAGES[0], headers=png)) == (422, "BadInput")
    # A form may hold one file, so the image comes as another field here.
    assert problem(http.post("/predict", files=[(name, ("a", b"low", "text/plain"))])) == (400, "BadInput")


def test_a_too_large_content_length_is_refused_at_once(http: httpx.Client) -> None:
    for kind in ("image/png", "multipart/form-data; boundary=x"):
        connection = HTTPConnection(http.base_url.host, http.base_url.port, timeout=300)
        connection.request("POST", "/predict", headers={"Content-Type": kind, "Content-Length": str(64 << 20)})
        assert connection.getresponse().status == 413
        connection.close()


def test_an_image_over_the_bound_is_refused_while_it_arrives(http: httpx.Client) -> None:
    def in_pieces() -> Iterator[bytes]:
        for _ in range(MAX_IMAGE // (1 << 20) + 1):
            yield bytes(1 << 20)

    try:
        answer = problem(http.post("/predict", content=in_pieces(), headers={"Content-Type": "image/png"}))
    except httpx.WriteError:  # the server closed the connection before the end
        answer = (413, "BadImage")
    assert answer == (413, "BadImage")
    assert http.get("/health").status_code == 200


@pytest.mark.parametrize("path", ["/health", "/version"])
def test_head_answers_as_get_without_a_body(http: httpx.Client, path: str) -> None:
    head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["X-Ulora-Version"] == get.headers["X-Ulora-Version"]


def test_health_version_and_refresh_say_what_is_served(shop: Shop, http: httpx.Client, live: Live) -> None:
    wait_until(lambda: live.health().rollback_ready)
    health, version = http.get("/health"), http.get("/version").json()
    assert (health.status_code, health.json()["state"], health.json()["ready"]) == (200, "serving", True)
    assert health.json()["resident"] == [V2, V3]
    weights = {name: component.weights_sha256 for name, component in shop.manifest(V3).components.items()}
    proof = health.json()["proof"]
    assert (proof["weights"], proof["problem"]) == ({name: digest for name, digest in weights.items() if digest}, "")
    assert proof["manifest_sha256"] == shop.pointer(V3).manifest_sha256
    manifest = shop.versions.manifest(shop.pointer(V3))
    assert (version["version"], version["generation"], version["channel"]) == (V3, 2, "production")
    assert (version["model"], version["content_sha256"]) == (shop.model, manifest.content_sha256)

    refreshed = http.post("/-/refresh")
    assert (refreshed.status_code, refreshed.json()["version"]) == (202, V3)
    record = shop.rollback()
    assert live.wait_for(generation=record.generation, timeout=300)
    assert http.get("/version").json()["version"] == http.get("/version").headers["X-Ulora-Version"] == V2


def test_a_replica_that_should_not_be_asked_answers_503(shop: Shop) -> None:
    live = Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(max_staleness=-1, deadline=600))
    with live, running(live) as http:
        assert http.get("/health").status_code == 503
        assert http.get("/health").json()["state"] == "not ready"
        assert http.post("/predict", files={"image": IMAGES[0]}).status_code == 200
        live.close()
        assert http.post("/predict", files={"image": IMAGES[0]}).status_code == 503
        assert http.get("/health").json()["state"] == "closed"


def test_a_slow_prediction_does_not_hold_up_health(shop: Shop) -> None:
    gate, waiting, loading = threading.Event(), threading.Event(), threading.Event()
    loading.set()

    def find_slow(flavor: str) -> Any:
        def load(manifest: Any, files: Any, **how: Any) -> Any:
            echo = load_echo(manifest, files, **how)

            class Slow:
                version, content_sha256, targets, labels = echo.version, echo.content_sha256, ("low",), {}
                runtime = echo.runtime

                def predict(self, images: Any, *, target: Any = None) -> Any:
                    if loading.is_set():
                        return echo.predict(images)
                    waiting.set()
                    assert gate.wait(300)
                    return echo.predict(images)

                def self_test(self) -> None:
                    pass

            return Slow()

        return load

    live = Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(find=find_slow, deadline=600))
    with live, running(live) as http, ThreadPoolExecutor(1) as pool:
        loading.clear()
        slow = pool.submit(http.post, "/predict", files={"image": IMAGES[0]})
        assert waiting.wait(300)
        assert http.get("/health").status_code == 200
        gate.set()
        assert slow.result().status_code == 200


@pytest.mark.acceptance
def test_a_taken_port_is_named(live: Live) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadSetting, match=f"can't listen on 127.0.0.1:{port}"):
            serve(live, HttpOptions(port=port))


_SERVE = """
import sys
from pathlib import Path
from registry.serving.http.options import HttpOptions
from registry.serving.http.server import serve
from registry.serving.fleet import Heartbeats
from registry.serving.follow import Live, LiveOptions
from registry.store.objects import ObjectStore
from tests.support.echo_releases import Shop, find_echo
shop = Shop(ObjectStore(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
heartbeats = Heartbeats(shop.store, shop.model, "production")
options = LiveOptions(find=find_echo, deadline=600)
with Live(shop.channel(), shop.versions, shop.blobs, options, fleet=heartbeats) as live:
    serve(live, HttpOptions(port=0, drain=0.1), started=lambda url: print(url, flush=True))
print("closed", flush=True)
"""


@pytest.mark.acceptance
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_serving_cleanly(store_url: str, model: str, tmp_path: Path, number: signal.Signals) -> None:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, store_url, model, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert process.stdout
    try:
        url = process.stdout.readline().strip()
        answer = httpx.post(f"{url}/predict", files={"image": IMAGES[0]}, timeout=300)
        assert answer.json()["version"] == "v1.0.0"
        wait_until(lambda: replicas(shop.store, model, "production"))
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out, err) == (0, "closed\n", "")
        assert replicas(shop.store, model, "production") == []
    finally:
        process.kill()
        process.communicate()


_STOPPED_EARLY = """
import signal, sys
from pathlib import Path
from registry.serving.http import server
from registry.serving.http.options import HttpOptions
from registry.serving.follow import Live, LiveOptions
from registry.store.objects import ObjectStore
from tests.support.echo_releases import Shop, find_echo
shop = Shop(ObjectStore(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
announced = []
def stop(url=""):
    announced.append(url)
    signal.raise_signal(signal.SIGTERM)
class StoppedBeforeItRuns(server.HttpServer):
    def run(self, sockets=None):
        stop()
        super().run(sockets=sockets)
with Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(find=find_echo, deadline=600)) as live:
    for _ in range(5):
        server.serve(live, HttpOptions(port=0, drain=0), started=stop)
    assert len(announced) == 5
    server.HttpServer = StoppedBeforeItRuns
    server.serve(live, HttpOptions(port=0, drain=0), started=announced.append)
    assert len(announced) == 7, "the server had started and ended"
print("closed", flush=True)
"""


@pytest.mark.acceptance
def test_sigterm_before_or_right_after_the_start_ends_serving(store_url: str, model: str, tmp_path: Path) -> None:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    # in a process of its own: nothing signals the process of the tests
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED_EARLY, store_url, model, str(tmp_path)],
        check=False, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")

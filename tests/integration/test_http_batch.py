"""Several images in one request over HTTP: one version, and for each image its own outcome."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.errors import BadInput, Overloaded
from registry.serving.byte_budget import ByteBudget, HeldBytes
from registry.serving.follow import Live
from registry.serving.http.batch import BatchInput
from registry.serving.http.form import read_form
from registry.serving.http.options import HttpOptions
from registry.serving.http.request_body import parse_json
from registry.serving.loaders import load_version
from registry.serving.options import LiveOptions
from registry.serving.pace import Pace
from registry.store.objects import ObjectStore
from registry.versions.bundle import DEFAULT_FLAVOR
from tests.support.batch_flavor import NO_IMAGE, POISON, Controls, TogetherEcho
from tests.support.bundles import write_bundle
from tests.support.echo_releases import Shop, load_echo, wait_until
from tests.support.equal_answers import assert_equal_answers
from tests.support.http_batches import as_files, as_json, as_text, noise_png
from tests.support.running_app import running


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
        weights = load_echo(manifest, files).weights
        return TogetherEcho(manifest.version, manifest.content_sha256, weights, controls=controls)

    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
        shop.promote(name)
    options = LiveOptions(find=lambda flavor: load, max_batch=4, waiting_bytes=12_100, deadline=600)
    with Live(shop.channel(), shop.versions, shop.blobs, options) as live:
        wait_until(lambda: live.health().rollback_ready and live.scheduler.busy_seconds == 0)
        controls.batches.clear()
        controls.at_work.clear()
        yield live


@pytest.fixture
def http(live: Live) -> Iterator[httpx.Client]:
    with running(live, HttpOptions(max_images=6, max_body=6000)) as client:
        yield client


def batch(http: httpx.Client, *images: bytes, **more: Any) -> httpx.Response:
    return http.post("/predict/batch", json=as_json(*images), **more)


def refused(answer: httpx.Response) -> tuple[int, str]:
    assert answer.json()["version"] == answer.headers["X-Ulora-Version"]
    return answer.status_code, answer.json()["error"]


def test_a_batch_is_answered_whichever_way_it_is_sent(shop: Shop, tmp_path: Path) -> None:
    shop.release("v2.0.0", write_bundle(tmp_path / "v2", family="dinov3"), flavor=DEFAULT_FLAVOR)
    shop.promote("v2.0.0")
    images, targets = [noise_png(seed) for seed in range(3)], ["low", "mid", "low"]
    quiet = load_version(shop.versions, shop.blobs, shop.pointer("v2.0.0")).predict(images, target=targets)
    with Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(deadline=600)) as live, running(live) as http:
        document = {"images": [{"image": as_text(i), "target": t} for i, t in zip(images, targets, strict=True)]}
        form = http.post("/predict/batch", files=as_files(*images), data={"target": targets})
        for answer in (http.post("/predict/batch", json=document), form):
            assert answer.status_code == 200
            assert answer.json()["manifest_sha256"] == shop.pointer("v2.0.0").manifest_sha256
            for one, alone in zip(answer.json()["predictions"], quiet, strict=True):
                assert_equal_answers(one, alone.to_dict())
        same = http.post("/predict/batch", files=as_files(*images), data={"target": "mid"}).json()
        assert [one["target"] for one in same["predictions"]] == ["mid"] * 3


def test_what_is_wrong_with_one_image_costs_no_other(http: httpx.Client, controls: Controls) -> None:
    answer = batch(http, b"a", NO_IMAGE, POISON, b"", b"b")
    assert answer.status_code == 200
    found = answer.json()["predictions"]
    assert [one.get("error", "fine") for one in found] == ["fine", "BadImage", "InternalError", "BadImage", "fine"]
    assert [one.get("status") for one in found] == [None, 400, 500, 400, None]
    assert found[1]["message"]
    document = {"images": [{"image": "a"}, {"image": as_text(b"b")}, {"image": "é"}]}
    found = http.post("/predict/batch", json=document).json()["predictions"]
    assert [one.get("error", "fine") for one in found] == ["BadImage", "fine", "BadImage"]


def test_an_image_that_finds_no_place_costs_no_other(live: Live, http: httpx.Client, controls: Controls) -> None:
    controls.computing.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(batch, http, b"a")
        assert controls.at_work.wait(60)
        live.scheduler._pace = Pace(4, {4: 100.0})
        # Five of them are answered after two batches of 100 s, the sixth after three.
        asked = pool.submit(batch, http, *[b"b"] * 6, headers={"X-Request-Timeout-Ms": "299000"})
        wait_until(lambda: live.scheduler.queued == 5)
        controls.computing.set()
        found = asked.result().json()["predictions"]
        assert first.result().status_code == asked.result().status_code == 200
    assert [one.get("error", "fine") for one in found] == ["fine"] * 5 + ["Overloaded"]
    assert found[-1]["status"] == 429
    wait_until(lambda: live.scheduler.budget.taken == 0)


def test_a_flip_during_a_batch_does_not_mix_it(shop: Shop, live: Live, http: httpx.Client, controls: Controls) -> None:
    controls.computing.clear()
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(batch, http, b"a", b"b", b"c")
        one = pool.submit(http.post, "/predict", content=b"d", headers={"Content-Type": "image/png"})
        wait_until(lambda: live.scheduler.queued + sum(map(len, controls.batches)) == 4)
        record = shop.rollback()
        live.refresh()
        assert live.wait_for(generation=record.generation, timeout=300)
        assert http.get("/version").json()["version"] == "v1.0.0"
        controls.computing.set()
        answers = [asked.result(), one.result()]
    for answer in answers:
        assert answer.headers["X-Ulora-Version"] == answer.json()["version"] == "v1.1.0"
        assert answer.headers["X-Ulora-Arm"] == "stable"
        assert answer.json()["manifest_sha256"] == shop.pointer("v1.1.0").manifest_sha256
    assert {each["version"] for each in answers[0].json()["predictions"]} == {"v1.1.0"}
    late = batch(http, b"a")
    assert late.json()["manifest_sha256"] == shop.pointer("v1.0.0").manifest_sha256


def test_a_batch_has_bounds(live: Live, http: httpx.Client) -> None:
    assert refused(batch(http, *[b"a"] * 7)) == (400, "BadInput")
    assert refused(http.post("/predict/batch", files=as_files(*[b"a"] * 7))) == (400, "BadInput")
    assert refused(http.post("/predict/batch", files=as_files(*[b"a"] * 40))) == (400, "BadInput")
    assert refused(batch(http, b"a" * 6000)) == (413, "BadImage")
    assert refused(http.post("/predict/batch", files=as_files(b"a" * 6000))) == (413, "BadImage")
    assert refused(batch(http, b"a" * 4000)) == (429, "Overloaded"), "body, text and image together"
    assert refused(http.post("/predict/batch", content=b"x" * 10, headers={"Content-Type": "image/png"}))[0] == 415
    compressed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert refused(http.post("/predict/batch", content=b"x", headers=compressed)) == (415, "BadInput")
    wait_until(lambda: live.scheduler.budget.taken == 0)


NO_BATCHES = [
    b"", b"[]", b"{}", b'{"images": []}', b'{"images": "a"}', b'{"images": [{}]}', b'{"images": [{"image": 5}]}',
    b'{"images": [{"image": "YQ==", "tarjet": "low"}]}', b'{"images": [{"image": "YQ==", "target": "../low"}]}',
    b'{"images": [{"image": "YQ==", "key": "' + b"k" * 257 + b'"}]}', b'{"images": [{"image": "\xff"}]}',
    b'{"images": [{"image": "YQ=="}], "n": NaN}', b"[" * 3000, b'{"images":' + b"[" * 3000, b"[" + b"1," * 2900,
    b'{"images": [{"image": "YQ=="}]', b'{"images": [{"image": "\\ud800"}]}',
    b'{"images": [{"image": "YQ=="}], "x": 1' + b"0" * 5000 + b"}",
]  # fmt: skip


def test_a_document_that_is_no_batch_is_refused(http: httpx.Client) -> None:
    for body in NO_BATCHES:
        answer = http.post("/predict/batch", content=body, headers={"Content-Type": "application/json"})
        assert refused(answer) == (400, "BadInput"), body
        assert len(answer.json()["message"]) <= 400


def test_an_image_without_a_name_is_known_by_its_type(http: httpx.Client) -> None:
    for kind in ("image/png", "application/octet-stream"):
        found = http.post("/predict/batch", files=[("image", (None, b"a", kind))] * 2)
        assert len(found.json()["predictions"]) == 2


def test_a_form_that_is_no_batch_is_refused(http: httpx.Client) -> None:
    def post(files: list[Any], **more: Any) -> tuple[int, str]:
        return refused(http.post("/predict/batch", files=files, **more))

    assert post([("image", (None, "text"))]) == (400, "BadInput")
    assert post([("picture", ("a", b"a"))]) == (400, "BadInput")
    assert post(as_files(b"a", b"b", b"c"), data={"target": ["low", "mid"]}) == (400, "BadInput")
    assert post(as_files(b"a"), data={"target": "../low"}) == (400, "BadInput")
    assert post(as_files(b"a"), data={"key": ["a", "b"]}) == (422, "BadInput")
    assert post([*as_files(b"a"), ("target", ("a", b"low"))]) == (422, "BadInput")
    assert post([*as_files(b"a"), ("other", (None, "x" * 5000))]) == (400, "BadInput")


def part(headers: bytes, body: bytes = b"a") -> bytes:
    return b"--x\r\n" + headers + b"\r\n\r\n" + body + b"\r\n"


IMAGE = b'Content-Disposition: form-data; name="image"; filename="a"'


BOMBS = [
    b"", b"--x", b"--x--", part(IMAGE), part(IMAGE)[:-3], part(b"X: y") + b"--x--", part(b"") + b"--x--",
    part(IMAGE + b"\r\nX: " + b"y" * 5000) + b"--x--", part(IMAGE + b"\r\nX: y" * 9) + b"--x--",
    part(b'Content-Disposition: form-data; name="a"') * 1000 + b"--x--", b"\x00" * 3000, b"--x\r\n" * 1000,
    part(b'Content-Disposition: form-data; name="target"', b"\xff") + part(IMAGE) + b"--x--",
]  # fmt: skip


def test_a_multipart_bomb_is_refused(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    for body in BOMBS:
        for path in ("/predict", "/predict/batch"):
            answer = http.post(path, content=body[:6000], headers={"Content-Type": "multipart/form-data; boundary=x"})
            assert refused(answer) == (400, "BadInput"), body
    assert not [record for record in caplog.records if record.levelname == "WARNING"], "clients can't fill the log"


@pytest.mark.parametrize(
    ("data", "says"), [(b"\r\n--x!" * 100, "more than 3 parts"), (b"\r\n--x" + b" " * 100, "spaces behind it")]
)
def test_boundaries_that_would_take_long_are_refused(data: bytes, says: str) -> None:
    body = part(IMAGE, data) + part(IMAGE) + b"--x--"
    with pytest.raises(BadInput, match=says):
        read_form(body, "multipart/form-data; boundary=x", 3)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.text(min_size=1, max_size=5), st.booleans(), st.binary(max_size=50)), max_size=5))
def test_a_form_is_read_as_a_client_wrote_it(parts: list[tuple[str, bool, bytes]]) -> None:
    files = [(name, ("leaf", data) if is_file else (None, data)) for name, is_file, data in parts]
    request = httpx.Request("POST", "http://x", files=files or {"a": (None, b"")})
    found = read_form(request.read(), request.headers["Content-Type"], 5)
    # httpx writes quotes and control characters of a name in percent.
    assert [(part.is_file, part.data) for part in found] == [(f, d) for _, f, d in parts] or not parts
    if all(name.isalnum() for name, _, _ in parts):
        assert [part.name for part in found] == [name for name, _, _ in parts] or not parts


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["x", "", "-", "é" * 300, '"']))
def test_any_bytes_are_a_form_or_are_refused(body: bytes, boundary: str) -> None:
    for each in (body, b"--x\r\n" + body, part(IMAGE, body) + b"--x--", part(body) + b"--x--"):
        with suppress(BadInput):
            assert len(read_form(each, f"multipart/form-data; boundary={boundary}", 3)) <= 3


def test_a_document_of_a_million_parts_is_refused_unread() -> None:
    held = HeldBytes(ByteBudget(1))
    for body in (b"[" * 30_000, b'{"images": [' + b"{}," * 10_000, b'{"a":' * 30_000):
        with pytest.raises(BadInput, match="too many parts"):
            parse_json(BatchInput, body, held)


@pytest.mark.parametrize("wide", ["😀", "\\ud83d\\ude00"])
def test_texts_of_wide_characters_count_as_what_they_take(wide: str) -> None:
    body = f'{{"images": [{{"image": "{"A" * 1000}{wide}"}}]}}'.encode()
    with pytest.raises(Overloaded):
        parse_json(BatchInput, body, HeldBytes(ByteBudget(4000)))
    assert parse_json(BatchInput, body, HeldBytes(ByteBudget(4 * len(body)))).images[0].image.endswith("😀")

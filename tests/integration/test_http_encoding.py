"""Compression, pages of other origins, and answers that are given again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.serving.follow import Live
from registry.serving.http.encoding import SMALLEST_COMPRESSED
from registry.serving.http.options import HttpOptions
from registry.serving.http.response_cache import AnswerKey, ResponseCache
from registry.serving.options import LiveOptions
from registry.store.objects import ObjectStore
from tests.support.batch_flavor import NO_IMAGE, POISON, Controls, TogetherEcho
from tests.support.echo_releases import EchoAnswer, Shop, load_echo, wait_until
from tests.support.http_batches import as_files, as_json
from tests.support.running_app import running

PAGE = "https://app.example"


@pytest.fixture
def controls() -> Controls:
    return Controls()


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    for name in ("v1.0.0", "v1.1.0", "v1.2.0"):
        shop.release(name)
    shop.promote("v1.0.0")
    return shop


@pytest.fixture
def live(shop: Shop, controls: Controls) -> Iterator[Live]:
    def load(manifest: Any, files: Any, **how: Any) -> TogetherEcho:
        weights = load_echo(manifest, files).weights
        return TogetherEcho(manifest.version, manifest.content_sha256, weights, controls=controls)

    options = LiveOptions(find=lambda flavor: load, max_batch=4, deadline=600)
    with Live(shop.channel(), shop.versions, shop.blobs, options) as live:
        wait_until(lambda: live.scheduler.busy_seconds == 0)
        controls.batches.clear()
        yield live


def post(http: httpx.Client, image: bytes, **query: str) -> httpx.Response:
    return http.post("/predict", content=image, params=query, headers={"Content-Type": "image/png"})


def test_large_answers_are_compressed_for_who_takes_it(live: Live) -> None:
    with running(live) as http:
        for taken, encoding in (("gzip", "gzip"), ("identity", None)):
            headers = {"Accept-Encoding": taken}
            large = http.post("/predict/batch", json=as_json(*[b"a"] * 32), headers=headers)
            assert len(large.content) > SMALLEST_COMPRESSED
            assert large.headers.get("Content-Encoding") == encoding
            assert len(large.json()["predictions"]) == 32
        assert "Content-Encoding" not in post(http, b"a").headers


def test_no_page_reads_answers_unless_it_may(live: Live) -> None:
    ask = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    with running(live) as http:
        assert "Access-Control-Allow-Origin" not in http.get("/version", headers={"Origin": PAGE}).headers
        assert http.options("/predict", headers=ask).status_code == 405
    with running(live, HttpOptions(cors_origins=(PAGE,))) as http:
        answer = http.get("/version", headers={"Origin": PAGE})
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "X-Ulora-Version" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert http.options("/predict", headers=ask).headers["Access-Control-Allow-Origin"] == PAGE
        other = http.get("/version", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in other.headers


def test_nothing_is_given_again_by_default(live: Live, controls: Controls) -> None:
    with running(live) as http:
        assert post(http, b"a").json() == post(http, b"a").json()
    assert controls.batches == [[b"a"], [b"a"]]


def test_an_answer_is_given_again_for_the_same_question(live: Live, controls: Controls) -> None:
    with running(live, HttpOptions(cache_bytes=100_000)) as http:
        first = post(http, b"a")
        again = [post(http, b"a"), http.post("/predict/batch", files=as_files(b"a")), post(http, b"a", key="user-7")]
        assert [each.status_code for each in again] == [200] * 3
        assert controls.batches == [[b"a"]]
        assert again[0].json() == again[2].json() | {"sticky": False} == first.json()
        assert again[0].headers["X-Ulora-Version"] == "v1.0.0"
        assert again[1].json()["predictions"][0]["answer"] == first.json()["answer"]
        post(http, b"a", target="low")
        post(http, b"b")
        assert controls.batches == [[b"a"], [b"a"], [b"b"]]


def test_what_failed_is_asked_again(live: Live, controls: Controls) -> None:
    with running(live, HttpOptions(cache_bytes=100_000)) as http:
        for image, status in ((POISON, 500), (NO_IMAGE, 400), (b"", 400)):
            assert post(http, image).status_code == post(http, image).status_code == status
        controls.computing.clear()
        late = {"Content-Type": "image/png", "X-Request-Timeout-Ms": "1"}
        assert http.post("/predict", content=b"a", headers=late).status_code in (429, 504)
        controls.computing.set()
        assert post(http, b"a").json()["outcome"] == "answer"
        assert controls.batches.count([POISON]) == 2


def test_another_version_never_gives_an_older_answer(shop: Shop, live: Live, controls: Controls) -> None:
    with running(live, HttpOptions(cache_bytes=100_000)) as http:
        answers = {}
        for name in ("v1.0.0", "v1.1.0", "v1.2.0"):
            if name != "v1.0.0":
                record = shop.promote(name)
                live.refresh()
                assert live.wait_for(generation=record.generation, timeout=300)
            found = post(http, b"a").json()
            assert found["version"] == name
            assert found["manifest_sha256"] == shop.pointer(name).manifest_sha256
            answers[name] = found["answer"]
        assert len(set(answers.values())) == 3
        record = shop.rollback()
        live.refresh()
        assert live.wait_for(generation=record.generation, timeout=300)
        assert post(http, b"a").json()["answer"] == answers["v1.1.0"]
    assert controls.batches == [[b"a"]] * 3


def test_the_cache_is_bounded_and_drops_what_left_memory() -> None:
    def key(version: str, number: int) -> AnswerKey:
        return AnswerKey(version, bytes([number]), None)

    cache = ResponseCache(2000)
    for number in range(10):
        cache.put(key("one", number), EchoAnswer("one", "x" * 50), {"one"})  # type: ignore[arg-type]
        assert cache.taken <= 2000
    assert 1 <= len(cache) < 10
    assert cache.get(key("one", 9)) is not None
    assert cache.get(key("one", 0)) is None
    cache.put(key("one", 10), EchoAnswer("one", "x" * 5000), {"one"})  # type: ignore[arg-type]
    assert cache.get(key("one", 10)) is None, "it is larger than the whole"
    cache.put(key("two", 0), EchoAnswer("two", "x"), {"two"})  # type: ignore[arg-type]
    assert len(cache) == 1
    cache.put(key("one", 0), EchoAnswer("one", "x"), {"two"})  # type: ignore[arg-type]
    assert (len(cache), cache.get(key("one", 0))) == (1, None)

"""The end of a replica, in processes of their own that get real signals."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from registry.serving.fleet import replicas
from registry.store.objects import ObjectStore
from tests.support.echo_releases import Shop, wait_until
from tests.support.raw_http import connect, is_closed, post, read_answer
from tests.support.serve_process import serving

IMAGE = {"files": {"image": b"leaf"}}


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    return shop


def test_a_replica_that_drains_is_not_ready_and_answers(shop: Shop) -> None:
    with (
        serving(shop, drain=300) as (process, url),
        connect(url) as begun,
        connect(url) as idle,
        httpx.Client() as http,
    ):
        wait_until(lambda: replicas(shop.store, shop.model, "production"))
        idle.sendall(post(b"leaf", "Content-Length: 4"))
        assert read_answer(idle).status == 200
        begun.sendall(post(b"le", "Content-Length: 4"))
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{url}/health", timeout=300).status_code == 503)
        assert httpx.get(f"{url}/health", timeout=300).json()["state"] == "draining"
        probes = [httpx.get(f"{url}/health/{what}", timeout=300).status_code for what in ("live", "ready")]
        assert probes == [200, 503]

        late = http.post(f"{url}/predict", timeout=300, **IMAGE)
        assert (late.status_code, late.headers["Connection"]) == (200, "close")
        begun.sendall(b"af")
        idle.sendall(post(b"leaf", "Content-Length: 4"))
        for connection in (begun, idle):
            answer = read_answer(connection)
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert is_closed(connection)

        process.send_signal(signal.SIGTERM)  # a second one waits no longer
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out, err) == (0, "closed\n", "")
        assert replicas(shop.store, shop.model, "production") == []


def test_a_second_signal_waits_for_no_request(shop: Shop) -> None:
    with serving(shop, drain=0) as (process, url), connect(url) as slow:
        slow.sendall(post(b"le", "Content-Length: 4"))
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: _refuses(url))
        process.send_signal(signal.SIGINT)
        assert (process.communicate(timeout=300), process.returncode) == (("closed\n", ""), 0)


def test_ctrl_c_does_not_drain(shop: Shop) -> None:
    with serving(shop, drain=300) as (process, url):
        assert httpx.post(f"{url}/predict", timeout=300, **IMAGE).status_code == 200
        process.send_signal(signal.SIGINT)
        assert (process.communicate(timeout=300), process.returncode) == (("closed\n", ""), 0)


def _refuses(url: str) -> bool:
    try:
        connect(url).close()
    except ConnectionRefusedError:
        return True
    return False

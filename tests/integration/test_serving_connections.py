"""Clients that hold connections: slow ones, many, and those that do not read. Real sockets, a real server."""

from __future__ import annotations

import json
import math
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from registry.serving.follow import Live, LiveOptions
from registry.serving.http.connections import _GIVES_WAY_AFTER, Phase
from registry.serving.http.options import HttpOptions
from registry.store.objects import ObjectStore
from tests.support.echo_releases import Shop, find_echo, wait_until
from tests.support.raw_http import connect, is_closed, post, read_answer
from tests.support.running_app import running_server

pytestmark = pytest.mark.acceptance

IMAGE = {"files": {"image": b"leaf"}}


@pytest.fixture
def live(store_url: str, model: str, tmp_path: Path) -> Iterator[Live]:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    with Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(find=find_echo, deadline=600)) as live:
        yield live


def error_of(connection: socket.socket) -> tuple[int, str]:
    """The status and the kind of an error in the form of all errors, after which the server closes."""
    answer = read_answer(connection)
    document = json.loads(answer.body)
    assert set(document) == {"error", "message", "hint", "version"}
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"]
    assert is_closed(connection)
    return answer.status, document["error"]


def is_readable(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], 0)[0])


def test_a_thousand_half_open_connections_are_closed(live: Live) -> None:
    with ExitStack() as stack, running_server(live, HttpOptions(header_seconds=3)) as (server, url):
        connections = [stack.enter_context(connect(url)) for _ in range(1000)]
        assert httpx.post(f"{url}/predict", timeout=300, **IMAGE).status_code == 200
        assert all(map(is_closed, connections))
        wait_until(lambda: not server.server_state.connections)


def test_a_head_that_does_not_end_is_given_up(live: Live) -> None:
    with running_server(live, HttpOptions(header_seconds=0.3)) as (_, url), connect(url) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost")
        assert error_of(slow) == (408, "Expired")


def test_an_idle_connection_is_closed(live: Live) -> None:
    with running_server(live, HttpOptions(idle_seconds=0.3)) as (_, url), connect(url) as idle:
        idle.sendall(post(b"leaf", "Content-Length: 4"))
        assert read_answer(idle).status == 200
        assert is_closed(idle)


def test_slow_senders_hold_nobody_up(live: Live) -> None:
    stop = threading.Event()

    def drip(connections: list[socket.socket]) -> None:
        while not stop.wait(0.02):
            for connection in connections:
                with suppress(OSError):
                    connection.send(b"x")

    with ExitStack() as stack, running_server(live, HttpOptions(body_seconds=3)) as (_, url):
        slow = [stack.enter_context(connect(url)) for _ in range(200)]
        for connection in slow:
            connection.sendall(post(b"", "Content-Length: 30000000"))
        dripping = threading.Thread(target=drip, args=[slow])
        dripping.start()
        try:
            for _ in range(20):
                assert httpx.post(f"{url}/predict", timeout=300, **IMAGE).status_code == 200
            assert {read_answer(connection).status for connection in slow} == {408}
        finally:
            stop.set()
            dripping.join()
        wait_until(lambda: live.scheduler.budget.taken == 0)


def test_a_client_that_does_not_read_is_cut_off(live: Live) -> None:
    with running_server(live, HttpOptions(body_seconds=0.5)) as (server, url):
        server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # connections inherit it
        state, asked = server.server_state, 0

        def paused() -> bool:
            return any(each.flow.write_paused for each in list(state.connections))

        with connect(url, SO_RCVBUF=4096) as deaf:
            while not paused():
                deaf.sendall(10 * b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
                asked += 10
                wait_until(lambda asked=asked: paused() or state.total_requests >= asked)
            wait_until(lambda: not state.connections)
        assert httpx.post(f"{url}/predict", timeout=300, **IMAGE).status_code == 200, "others are answered"


def test_more_connections_than_there_may_be_are_refused(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_GIVES_WAY_AFTER, Phase.BODY, math.inf)  # however busy this machine is
    with ExitStack() as stack, running_server(live, HttpOptions(max_connections=3)) as (_, url):
        held = [stack.enter_context(connect(url)) for _ in range(3)]
        for connection in held:
            connection.sendall(post(b"le", "Content-Length: 4"))
        wait_until(lambda: live.scheduler.budget.taken == 6)
        assert error_of(stack.enter_context(connect(url))) == (503, "Overloaded")
        for connection in held:
            connection.sendall(b"af")
            assert read_answer(connection).status == 200


def test_a_connection_without_a_request_gives_way(live: Live) -> None:
    with ExitStack() as stack, running_server(live, HttpOptions(max_connections=3)) as (_, url):
        idle = [stack.enter_context(connect(url)) for _ in range(3)]

        def answered() -> bool:
            with suppress(httpx.HTTPError):
                return httpx.post(f"{url}/predict", timeout=300, **IMAGE).status_code == 200
            return False

        wait_until(answered)
        assert is_closed(idle[0])


def test_a_body_that_arrives_slowly_gives_way(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_GIVES_WAY_AFTER, Phase.BODY, 0.0)
    with ExitStack() as stack, running_server(live, HttpOptions(max_connections=3)) as (_, url):
        held = [stack.enter_context(connect(url)) for _ in range(3)]
        for connection in held:
            connection.sendall(post(b"le", "Content-Length: 4"))
        wait_until(lambda: live.scheduler.budget.taken == 6)
        assert httpx.get(f"{url}/health/live", timeout=300).status_code == 200
        assert sum(map(is_readable, held)) == 1
        assert error_of(next(filter(is_readable, held))) == (408, "Expired")


_FEW_FILES = """
import resource, socket, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
from registry.serving.follow import Live, LiveOptions
from registry.store.objects import ObjectStore
from tests.support.echo_releases import Shop, find_echo
from tests.support.running_app import running_server
shop = Shop(ObjectStore(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
live = Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(find=find_echo, deadline=600))
with live, running_server(live) as (server, url):
    print(url, flush=True)
    sys.stdin.readline()
    shop.release("v2.0.0")
    shop.promote("v2.0.0")
    assert live.wait_for(version="v2.0.0", timeout=300)
    print(len(server.server_state.connections), flush=True)
"""


def test_connections_never_take_the_handles_that_a_load_needs(store_url: str, model: str, tmp_path: Path) -> None:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    process = subprocess.Popen(
        [sys.executable, "-c", _FEW_FILES, store_url, model, str(tmp_path)], text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert process.stdout
    try:
        url = process.stdout.readline().strip()
        with ExitStack() as stack:
            for _ in range(600):
                stack.enter_context(connect(url))
            out, err = process.communicate("go\n", timeout=300)
        assert (process.returncode, int(out)) == (0, pytest.approx(100, abs=60)), err
        assert "connections are open" in err
    finally:
        process.kill()
        process.communicate()

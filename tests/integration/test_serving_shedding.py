"""Requests that there is no time for, refused as soon as their heads were read: real sockets, a real server."""

from __future__ import annotations

import asyncio
import json
import re
import select
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from registry.serving.follow import Live, LiveOptions
from registry.serving.http.options import HttpOptions
from registry.serving.http.server import HttpServer
from registry.serving.http.shedding import Shedding
from registry.serving.pace import Pace
from registry.store.objects import ObjectStore
from tests.support.batch_flavor import Controls, TogetherEcho
from tests.support.echo_releases import Shop, load_echo, wait_until
from tests.support.raw_http import RawAnswer, connect, is_closed, post, read_answer
from tests.support.running_app import running_server

TOKEN, OTHER = "a" * 32, "b" * 32
LIMITED = post(b"leaf", "Content-Length: 4", "X-Request-Timeout-Ms: 50")


@pytest.fixture
def controls() -> Iterator[Controls]:
    controls = Controls()
    yield controls
    controls.computing.set()


@pytest.fixture
def live(store_url: str, model: str, tmp_path: Path, controls: Controls) -> Iterator[Live]:
    """A replica whose computing thread is at a batch that takes 100 seconds, by what it knows."""

    def load(manifest: Any, files: Any, **how: Any) -> TogetherEcho:
        weights = load_echo(manifest, files).weights
        return TogetherEcho(manifest.version, manifest.content_sha256, weights, controls=controls)

    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    with Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(find=lambda flavor: load, max_batch=4)) as live:
        controls.computing.clear()
        live.submit(b"a", deadline=300)
        assert controls.at_work.wait(60)
        live.scheduler._pace = Pace(4, {4: 100.0})
        yield live
        controls.computing.set()


@contextmanager
def connected(live: Live, options: HttpOptions | None = None) -> Iterator[tuple[socket.socket, HttpServer]]:
    with running_server(live, options) as (server, url), connect(url) as client:
        yield client, server


def is_readable(client: socket.socket) -> bool:
    return bool(select.select([client], [], [], 0)[0])


def ask(client: socket.socket, *headers: str, path: str = "/predict") -> RawAnswer:
    client.sendall(post(b"leaf", "Content-Length: 4", *headers, path=path))
    return read_answer(client)


def test_it_answers_as_the_application_does(live: Live) -> None:
    with connected(live) as (client, server):
        infer = f"/v2/models/{live.record.model}/infer"
        for path in ("/predict", "/predict?key=a", "/predict/batch", "/v1/diagnose", infer):
            by_the_application = path.replace("/p", "/%70").replace("/d", "/%64").replace("/i", "/%69")
            quick, slow = ask(client, path=path), ask(client, path=by_the_application)
            assert quick.status == slow.status == 429
            numbers = re.compile(rb"[0-9.]+ s")  # how long it would take
            assert numbers.sub(b"", quick.body) == numbers.sub(b"", slow.body)
            names = set(quick.headers)
            assert names == set(slow.headers)
            for name in names - {"x-request-id", "retry-after", "date", "content-length"}:
                assert quick.headers[name] == slow.headers[name]
            assert len(quick.body) == int(quick.headers["content-length"])
        wait_until(lambda: server.server_state.total_requests == 5)  # those that were not shed


def test_only_requests_for_predictions_are_refused(live: Live) -> None:
    with connected(live) as (client, _):
        for line in ("GET /health/live", "GET /health", "GET /predict", "POST /-/refresh", "OPTIONS /predict"):
            client.sendall(f"{line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert read_answer(client).status != 429


def test_what_is_no_path_for_predictions_is_not_found(live: Live) -> None:
    with connected(live) as (client, _):
        for path in ("/predictions", "/predict/nothing", "/v2/nothing/at/all/infer"):
            assert ask(client, path=path).status == 404


def test_other_requests_are_not_counted_as_images(live: Live) -> None:
    shedding = Shedding(live, HttpOptions(), None)

    async def arriving() -> list[int]:
        found = []
        late = [(b"x-request-timeout-ms", b"590000")]
        for method, path in ((b"GET", b"/health/live"), (b"POST", b"/-/refresh"), (b"POST", b"/predict")):
            assert shedding.refusal(method, path, late, []) == b""
            found.append(shedding._arriving)
        await asyncio.sleep(0)
        return [*found, shedding._arriving]

    assert asyncio.run(arriving()) == [0, 0, 1, 0]


def test_pages_may_read_refusals_where_that_is_set(live: Live) -> None:
    origin = "https://lab.example"
    with connected(live, HttpOptions(cors_origins=(origin,))) as (client, server):
        answer = ask(client, f"Origin: {origin}")
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (429, origin)
    with connected(live) as (client, server):
        assert ask(client, f"Origin: {origin}").status == 429
        assert server.server_state.total_requests == 0  # it was shed


def test_a_late_deadline_is_admitted(live: Live, controls: Controls) -> None:
    with connected(live) as (client, _):
        assert ask(client, "X-Request-Timeout-Ms: 1000").status == 429
        client.sendall(post(b"leaf", "Content-Length: 4", "X-Request-Timeout-Ms: 590000"))
        wait_until(lambda: live.scheduler.queued == 1)
        controls.computing.set()
        assert read_answer(client).status == 200


def test_a_wrong_deadline_is_told_by_the_application(live: Live) -> None:
    with connected(live) as (client, _):
        answer = ask(client, "X-Request-Timeout-Ms: soon")
        assert (answer.status, json.loads(answer.body)["error"]) == (400, "BadInput")


def test_who_has_no_token_learns_nothing_else(live: Live, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"app predict {TOKEN}\nlabels feedback {OTHER}\n")
    tokens.chmod(0o600)
    with connected(live, HttpOptions(tokens=tokens)) as (client, _):
        assert ask(client).status == 401
        assert ask(client, f"Authorization: Bearer {OTHER}").status == 403
        assert ask(client, f"Authorization: Bearer {TOKEN}").status == 429


def test_refusals_are_counted(live: Live) -> None:
    with connected(live) as (client, _):
        for _ in range(3):
            ask(client)
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        text = read_answer(client).body.decode()
    assert 'ulora_requests_total{arm="stable",code="429",version="v1.0.0"} 3.0' in text


def test_a_body_that_comes_later_is_not_taken_for_a_request(live: Live) -> None:
    with connected(live) as (client, _):
        for part in (b"GET /health HTTP/1.1\r\n\r\n", bytes(100_000)):
            client.sendall(post(b"", f"Content-Length: {len(part)}"))
            assert read_answer(client).status == 429
            client.sendall(part)
        client.sendall(post(b"", "Transfer-Encoding: chunked"))
        assert read_answer(client).status == 429
        client.sendall(b"4\r\nleaf\r\n0\r\n\r\n")
        assert ask(client).status == 429


def test_a_body_that_never_comes_is_given_up(live: Live) -> None:
    with connected(live, HttpOptions(body_seconds=0.5)) as (client, _):
        client.sendall(post(b"le", "Content-Length: 4"))
        assert read_answer(client).status == 429
        assert is_closed(client)


def test_what_is_no_http_ends_the_connection_after_it(live: Live) -> None:
    with connected(live) as (client, _):
        client.sendall(post(b"", "Transfer-Encoding: chunked") + b"no length\r\n")
        assert read_answer(client).status == 429
        assert is_closed(client)


def test_answers_come_in_the_order_of_the_requests(live: Live, controls: Controls) -> None:
    with connected(live) as (client, _):
        admitted = post(b"leaf", "Content-Length: 4", "X-Request-Timeout-Ms: 590000", "X-Request-Id: first")
        client.sendall(admitted + LIMITED)
        wait_until(lambda: live.scheduler.queued == 1)
        controls.computing.set()
        assert read_answer(client).headers["x-request-id"] == "first"
        assert read_answer(client).status in (200, 429)  # by then there is time, or not


def test_a_client_that_reads_no_refusal_costs_no_memory(live: Live) -> None:
    with running_server(live, HttpOptions(body_seconds=0.5)) as (server, url):
        server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # connections inherit it
        state, most = server.server_state, 0
        with connect(url, SO_RCVBUF=4096) as deaf:
            try:
                while True:
                    deaf.sendall(50 * LIMITED)
                    held = [each.transport.get_write_buffer_size() for each in list(state.connections)]
                    most = max(most, *held, 0)
            except OSError:
                pass  # it is heard no more
            wait_until(lambda: not state.connections)
        assert most < 1024 * 1024


def test_the_last_answers_of_a_replica_that_drains_say_so(live: Live) -> None:
    with connected(live) as (client, server):
        server.open.draining = True
        answer = ask(client)
        assert (answer.status, answer.headers["connection"]) == (429, "close")
        assert is_closed(client)


@pytest.mark.parametrize(
    ("version", "connection"), [("1.0", "close"), ("1.0", "keep-alive"), ("1.1", "close")], ids=" ".join
)
def test_the_only_request_of_a_connection_closes_it(live: Live, version: str, connection: str) -> None:
    with connected(live) as (client, _):
        head = f"POST /predict HTTP/{version}\r\nHost: x\r\nConnection: {connection}\r\nContent-Length: 4\r\n\r\n"
        client.sendall(head.encode() + b"leaf")
        answer = read_answer(client)
        assert (answer.status, answer.headers["connection"]) == (429, "close")
        assert is_closed(client)


def test_each_request_gets_one_answer(live: Live) -> None:
    offer = ("Connection: Upgrade", "Upgrade: h2c", "X-Request-Id: second")
    with connected(live) as (client, _):
        client.sendall(LIMITED + post(b"", "Content-Length: 0", *offer))
        assert [read_answer(client).status, read_answer(client).headers["x-request-id"]] == [429, "second"]
        assert is_closed(client)


def test_requests_that_arrive_together_see_each_other(live: Live, controls: Controls) -> None:
    with running_server(live) as (server, url), ExitStack() as stack:
        clients = [stack.enter_context(connect(url)) for _ in range(60)]
        wait_until(lambda: len(server.open) == 60)
        held, go_on = threading.Event(), threading.Event()
        server.servers[0]._loop.call_soon_threadsafe(lambda: (held.set(), go_on.wait(60)))
        assert held.wait(60)
        for client in clients:
            client.sendall(post(b"leaf", "Content-Length: 4", "X-Request-Timeout-Ms: 350000"))
        go_on.set()
        wait_until(lambda: sum(map(is_readable, clients)) + live.scheduler.queued == 60)
        waiting = live.scheduler.queued
        assert 9 <= waiting <= 13  # a batch of 4 takes 100 seconds, half a one 50
        controls.computing.set()
        assert Counter(read_answer(client).status for client in clients) == {200: waiting, 429: 60 - waiting}
        wait_until(lambda: server.server_state.total_requests >= waiting)
        assert server.server_state.total_requests <= 13  # the application refused none, or those in between

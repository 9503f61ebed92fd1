"""What is no proper request: each gets a clear answer, and a replica answers others as ever. Real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.serving.follow import Live, LiveOptions
from registry.serving.http.options import HttpOptions
from registry.serving.http.protocol import MAX_HEAD, MAX_HEADERS
from registry.serving.http.server import HttpServer
from registry.store.objects import ObjectStore
from tests.support.echo_releases import Shop, find_echo, wait_until
from tests.support.raw_http import connect, is_closed, post, read_answer
from tests.support.running_app import running_server

pytestmark = pytest.mark.acceptance

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
GOOD = post(b"leaf", "Content-Length: 4")
Served = tuple[HttpServer, str]


@pytest.fixture
def live(store_url: str, model: str, tmp_path: Path) -> Iterator[Live]:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    with Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(find=find_echo, deadline=600)) as live:
        yield live


@pytest.fixture
def served(live: Live) -> Iterator[Served]:
    """A server that is unharmed at the end: it answers, nothing is open, no memory is held."""
    with running_server(live, HttpOptions(header_seconds=300, body_seconds=300)) as (server, url):
        yield server, url
        assert httpx.post(f"{url}/predict", files={"image": b"leaf"}, timeout=300).status_code == 200
        wait_until(lambda: not server.server_state.connections and len(server.open) == 0)
        assert live.scheduler.budget.taken == 0


def refusal(connection: socket.socket) -> tuple[int, str]:
    answer = read_answer(connection)
    document = json.loads(answer.body)
    assert document["message"]
    assert document["version"] == answer.headers["x-ulora-version"] == "v1.0.0"
    assert is_closed(connection)
    return answer.status, document["error"]


@pytest.mark.parametrize(
    "sent",
    [
        post(b"leaf", "Content-Length: 4", "Content-Length: 5"),
        post(b"leaf", "Content-Length: -4"),
        post(b"leaf", "Content-Length: four"),
        post(b"leaf", "Content-Length: 99999999999999999999999999"),
        post(b"4\r\nleaf\r\n0\r\n\r\n", "Content-Length: 4", "Transfer-Encoding: chunked"),
        post(b"zz\r\nleaf\r\n", "Transfer-Encoding: chunked"),
        b"no request at all\r\n\r\n",
        b"GET /health HTTP/1.1\r\nA\x00: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nA: b\x01\r\n\r\n",
        b"GET /health HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        b"GET /health HTTP/1.1\nA: b\n\n",
        b"GET /h\xc3\xa4lth HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        post(b"4\r\nleaf\r\n0\r\n\r\n", "Transfer-Encoding: gzip, chunked"),
        post(b"4\r\nleaf\r\n0\r\n\r\n", "Transfer-Encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_valid_request_is_refused(served: Served, sent: bytes) -> None:
    with connect(served[1]) as client:
        client.sendall(sent)
        assert refusal(client) == (400, "BadInput")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\nA: " + b"a" * MAX_HEAD,
        b"GET /health HTTP/1.1\r\nA: " + b"a" * MAX_HEAD + b"\r\n\r\n",
        b"GET /" + b"a" * MAX_HEAD + b" HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"A: a\r\n" * (MAX_HEAD // 6) + b"\r\n",
        b"GET /health HTTP/1.1\r\n" + b"A:\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        b"\r\n" * MAX_HEAD,
    ],
)
def test_a_head_that_is_too_large_is_refused(served: Served, sent: bytes) -> None:
    with connect(served[1]) as client:
        client.sendall(sent)
        assert refusal(client) == (431, "BadInput")


def test_a_large_head_below_the_bound_is_answered(served: Served) -> None:
    with connect(served[1]) as client:
        client.sendall(b"GET /version HTTP/1.1\r\nA: " + b"a" * (MAX_HEAD - 100) + b"\r\n\r\n")
        assert read_answer(client).status == 200


def test_a_body_that_never_comes_is_nobodys_memory(live: Live) -> None:
    with running_server(live, HttpOptions(body_seconds=0.5)) as (_, url):
        with connect(url) as leaves:
            leaves.sendall(post(b"le", "Content-Length: 4"))
        with connect(url) as waits:
            waits.sendall(post(b"le", "Content-Length: 4"))
            assert refusal(waits) == (408, "Expired")
        wait_until(lambda: live.scheduler.budget.taken == 0)


def test_chunks_without_end_are_refused_and_dropped(served: Served) -> None:
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    with connect(served[1]) as client:
        client.sendall(post(b"", "Transfer-Encoding: chunked"))
        for _ in range(33):
            client.sendall(chunk)
        assert read_answer(client).status == 413


@pytest.mark.parametrize("endless", [b"1;" + b"x" * 9 * MAX_HEAD, b"1\r\nx\r\n0\r\nA: " + b"a" * 9 * MAX_HEAD])
def test_chunks_of_anything_but_a_body_are_refused(served: Served, endless: bytes) -> None:
    with connect(served[1]) as client:
        client.sendall(post(b"", "Transfer-Encoding: chunked"))
        client.sendall(endless)
        assert refusal(client) == (400, "BadInput")


def test_a_trailer_is_no_header(served: Served) -> None:
    with connect(served[1]) as client:
        client.sendall(post(b"4\r\nleaf\r\n0\r\nX-Request-Id: trailer\r\n\r\n", "Transfer-Encoding: chunked"))
        answer = read_answer(client)
        assert (answer.status, answer.headers["x-request-id"] == "trailer") == (200, False)


def test_garbage_after_a_request_costs_it_no_answer(served: Served) -> None:
    with connect(served[1]) as client:
        client.sendall(GOOD + b"garbage\r\n\r\n")
        answer = read_answer(client)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert is_closed(client)


def test_a_request_that_breaks_off_behind_others_holds_nothing(served: Served) -> None:
    with connect(served[1]) as client:
        client.sendall(GOOD + GET + post(b"zz\r\n", "Transfer-Encoding: chunked"))
        assert [read_answer(client).status for _ in range(2)] == [200, 200]
        assert is_closed(client)


def test_requests_in_a_row_are_answered_in_order(served: Served) -> None:
    with connect(served[1]) as client:
        client.sendall(GOOD + GET + GOOD)
        assert [b"ready" in read_answer(client).body for _ in range(3)] == [False, True, False]
        client.sendall(GET.replace(b"GET", b"HEAD") + GOOD)
        assert read_answer(client, has_body=False).headers["x-ulora-version"] == "v1.0.0"
        assert read_answer(client).status == 200
    with connect(served[1]) as client:
        client.sendall(GOOD * 100)  # more than may wait
        first = read_answer(client)
        assert first.status == 200


def test_an_offer_of_another_protocol_is_ignored(served: Served) -> None:
    with connect(served[1]) as client:
        client.sendall(
            post(
                b"leaf", "Content-Length: 4", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: x"
            )
        )
        assert read_answer(client).status == 200


def test_five_hundred_connections_are_answered(served: Served) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(served[1])) for _ in range(500)]
        for connection in connections:
            connection.sendall(GOOD)
        statuses = {read_answer(connection).status for connection in connections}
        assert 200 in statuses
        assert statuses <= {200, 429}, "each is answered, where there is time for it with an image"


def test_no_bytes_harm_a_replica(served: Served) -> None:
    pieces = st.one_of(
        st.binary(max_size=60), st.sampled_from([GOOD, GET, GOOD[:-2], b"\r\n\r\n", b"Content-Length: 3"])
    )

    @settings(max_examples=60, deadline=None)
    @given(st.lists(pieces, max_size=6).map(b"".join))
    def send(sent: bytes) -> None:
        with connect(served[1]) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
        with connect(served[1]) as other:
            other.sendall(GET)
            assert read_answer(other).status == 200

    send()

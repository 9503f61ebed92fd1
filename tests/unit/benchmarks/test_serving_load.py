"""The client of the serving benchmark: what it sends, what it counts, and that it hides no waiting."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.serving.client import HttpAnswer, LoadJob, difference, read_requests, write_requests
from benchmarks.serving.load import (
    ClientAnswer,
    LoadResult,
    get_request,
    in_background,
    percentile,
    post_requests,
    run_load,
    save,
)
from benchmarks.serving.swaps import split
from tests.support.echo_releases import wait_until

ANSWER = {"version": "v1.0.0", "target": "low", "label": "one", "outcome": "answer", "is_ood": False, "confidence": 0.5}


class Counting:
    """A service that counts the bodies that it got, and holds its answers while its gate is closed."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.status, self.closes = 200, False
        self.gate = threading.Event()
        self.gate.set()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                service.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                assert service.gate.wait(300)
                body = json.dumps(ANSWER).encode()
                self.send_response(service.status)
                self.send_header("X-Ulora-Version", "v1.0.0")
                self.send_header("Content-Length", str(len(body)))
                if service.closes:
                    self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body[:10])
                self.wfile.flush()
                self.wfile.write(body[10:])

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = int(self.server.server_port)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def service() -> Iterator[Counting]:
    service = Counting()
    yield service
    service.gate.set()
    service.server.shutdown()
    service.server.server_close()


@pytest.fixture
def requests(tmp_path: Path) -> str:
    return str(write_requests(tmp_path / "requests", post_requests("/predict", [b"a", b"bb", b"ccc"], {"X": "y"})))


def test_a_closed_loop_sends_each_request_in_turn(service: Counting, requests: str) -> None:
    result = run_load(LoadJob(service.port, requests, clients=2, count=30))
    assert sorted(service.bodies) == sorted([b"a", b"bb", b"ccc"] * 10)
    assert result.statuses() == {"200": 30}
    assert {one.version for one in result.answers} == {"v1.0.0"}
    assert all(one.due <= one.sent <= one.done for one in result.answers)


def test_an_open_loop_sends_whatever_comes_back(service: Counting, requests: str) -> None:
    service.gate.clear()
    with in_background(LoadJob(service.port, requests, rate=500, count=20)) as load:
        wait_until(lambda: len(service.bodies) == 20)
        service.gate.set()
        assert load.result().statuses() == {"200": 20}


def test_waiting_for_a_connection_counts_as_latency(service: Counting, requests: str) -> None:
    service.gate.clear()
    with in_background(LoadJob(service.port, requests, rate=500, count=20, connections=2)) as load:
        wait_until(lambda: len(service.bodies) == 2)
        service.gate.set()
        answers = load.result().answers
    held = [one for one in answers if one.sent > min(other.done for other in answers)]
    assert len(held) == 18
    assert all(one.seconds >= one.done - one.sent for one in answers)
    assert all(one.due < one.sent for one in held)


def test_a_load_ends_when_it_is_told_to(service: Counting, requests: str) -> None:
    with in_background(LoadJob(service.port, requests, clients=1, least=50)) as load:
        load.end()
        assert len(load.result().answers) >= 50


@pytest.mark.parametrize("status", [429, 503])
def test_refusals_are_counted_by_their_code(service: Counting, requests: str, status: int) -> None:
    service.status, service.closes = status, True
    result = run_load(LoadJob(service.port, requests, clients=1, count=3))
    assert result.statuses() == {str(status): 3}
    assert result.failed() == 3


def test_no_answer_is_a_failure(requests: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert run_load(LoadJob(port, requests, clients=1, count=2)).statuses() == {"0": 2}


def test_answers_are_compared_with_those_of_quiet_times(service: Counting, requests: str, tmp_path: Path) -> None:
    other = {**ANSWER, "label": "two"}
    expected = save(tmp_path / "expected.json", {"v1.0.0": [ANSWER, other, {**ANSWER, "confidence": 0.6}]})
    result = run_load(LoadJob(service.port, requests, clients=1, count=3, expected=expected))
    assert result.wrong == [
        "request 1 by v1.0.0: label is 'one', not 'two'",
        "request 2 by v1.0.0: confidence is 0.5, not 0.6",
    ]


def test_numbers_may_differ_by_the_tolerance() -> None:
    one = {**ANSWER, "ood_score": None, "probabilities": {"one": 0.5, "two": 0.5}}
    assert difference(one, {**one, "confidence": 0.5005}, 1e-3) == ""
    assert difference(one, {**one, "probabilities": {"one": 0.51, "two": 0.5}}, 1e-3) == "one is 0.5, not 0.51"
    assert difference(one, {**one, "ood_score": 0.1}, 1e-3) == "ood_score is None, not 0.1"
    assert difference(one, {**one, "version": "v2.0.0"}, 1e-3)


@settings(max_examples=20)
@given(st.lists(st.binary(max_size=300), max_size=20))
def test_requests_survive_their_file(tmp_path_factory: pytest.TempPathFactory, requests: list[bytes]) -> None:
    assert read_requests(write_requests(tmp_path_factory.mktemp("requests") / "file", requests)) == requests


def test_headers_are_found_whatever_their_case() -> None:
    answer = HttpAnswer(200, b"HTTP/1.1 200 OK\r\nX-Ulora-Version:  v1.0.0 \r\nContent-LENGTH: 7")
    assert (answer.header(b"x-ulora-version"), answer.header(b"content-length")) == ("v1.0.0", "7")
    assert answer.header(b"connection") == ""


def test_a_percentile_is_a_value_that_was_seen() -> None:
    assert [percentile([0.003, 0.001, 0.002], share) for share in (0.01, 0.5, 0.99)] == [1.0, 2.0, 3.0]
    assert percentile([], 0.5) != percentile([], 0.5)


def test_the_rate_is_that_of_the_middle() -> None:
    answers = [ClientAnswer(number, number, number + 0.5, 200, "") for number in range(101)]
    assert LoadResult(answers, [], 0.0).rate() == pytest.approx(1.0)
    assert LoadResult(answers[:2], [], 0.0).rate() == pytest.approx(2 / 1.5)
    assert LoadResult([], [], 0.0).rate() == 0.0


def test_answers_under_way_during_a_change_are_around_it() -> None:
    answers = [ClientAnswer(due, due, due + 1.0, 200, "") for due in (0.0, 1.5, 2.5, 4.5)]
    around, steady = split(answers, [(2.0, 3.0)])
    assert [one.due for one in around] == [1.5, 2.5]
    assert [one.due for one in steady] == [0.0, 4.5]


def test_a_get_request_is_complete() -> None:
    assert get_request("/health") == b"GET /health HTTP/1.1\r\nHost: replica\r\n\r\n"

"""The demo's clients: what counts as an answer, as a failure, as the same answer."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from registry.devstack.traffic import ClientReply, Question, SteadyLoad, accuracy, largest_difference
from registry.errors import UloraError

QUESTION = Question(b"image", "tomato", "rust")
RIGHT = {"version": "v1.0.0", "target": "tomato", "label": "rust", "is_ood": False, "confidence": 0.9}


class Service:
    """An HTTP service that gives the same answer to every request, until it is told another."""

    def __init__(self) -> None:
        self.status, self.document, self.body = 200, dict(RIGHT), b""
        self.came, self.answers_now = threading.Event(), threading.Event()
        self.answers_now.set()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                body = service.body or json.dumps(service.document).encode()
                service.came.set()
                service.answers_now.wait()
                self.send_response(service.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.server.shutdown()
    service.server.server_close()


def test_every_answer_is_kept_with_its_version(service: Service) -> None:
    with SteadyLoad(service.url, [QUESTION], rate=200) as load:
        answers = load.wait_for("v1.0.0", since=0, count=20, seconds=180)
    assert len(answers) == 20
    assert accuracy(answers) == 1
    assert load.failures() == []
    assert load.versions() == {"v1.0.0": len(load.answers)}


def test_what_is_in_flight_is_waited_for(service: Service) -> None:
    service.answers_now.clear()
    with SteadyLoad(service.url, [QUESTION], rate=200, clients=1) as load:
        service.came.wait()
        with pytest.raises(UloraError, match="is not answered"):
            load.wait_for_those_in_flight(seconds=0.01)
        assert load.answers == []
        service.answers_now.set()
        load.wait_for_those_in_flight()
        assert load.answers


def test_an_answer_is_told_with_its_question(service: Service) -> None:
    told: list[tuple[Question, ClientReply]] = []
    with SteadyLoad(service.url, [QUESTION], rate=200, answered=lambda *both: told.append(both)) as load:
        load.wait_for("v1.0.0", since=0, count=3, seconds=180)
    assert {question for question, _ in told} == {QUESTION}
    assert [answer for _, answer in sorted(told, key=lambda one: one[1].at)] == sorted(load.answers, key=lambda a: a.at)


@pytest.mark.parametrize("flagged", [True, False])
def test_something_else_is_to_be_flagged(service: Service, flagged: bool) -> None:
    service.document = {**RIGHT, "is_ood": flagged}
    with SteadyLoad(service.url, [Question(b"image", "", "_ood")], rate=200) as load:
        (answer,) = load.wait_for("v1.0.0", since=0, seconds=180)
    assert answer.is_right is flagged


def test_the_times_of_recent_answers_are_told(service: Service) -> None:
    load = SteadyLoad(service.url, [QUESTION], rate=200)
    assert load.percentile(0.5) == 0
    now = time.monotonic()
    load._answers = [replace(answer(), at=now - 60, seconds=9.0)]
    load._answers += [replace(answer(), at=now, seconds=number / 100) for number in range(1, 101)]
    load._answers.append(replace(answer(), at=now, seconds=9.0, problem="no answer"))
    assert (load.percentile(0.5), load.percentile(0.99), load.percentile(1)) == (0.51, 1.0, 1.0)


def test_each_answer_tells_how_long_it_took(service: Service) -> None:
    with SteadyLoad(service.url, [QUESTION], rate=200) as load:
        (answer,) = load.wait_for("v1.0.0", since=0, seconds=180)
    assert 0 < answer.seconds < 180


def test_a_change_of_version_is_seen(service: Service) -> None:
    with SteadyLoad(service.url, [QUESTION], rate=200) as load:
        load.wait_for("v1.0.0", since=0, seconds=180)
        moved = time.monotonic()
        service.document = {**RIGHT, "version": "v2.0.0", "label": "blight"}
        answers = load.wait_for("v2.0.0", moved, seconds=180)
    assert answers[0].at > moved
    assert accuracy(answers) == 0


@pytest.mark.parametrize(("status", "document"), [(503, RIGHT), (200, {}), (500, {"message": "no"})])
def test_anything_but_a_whole_answer_of_a_version_is_a_failure(
    service: Service, status: int, document: dict[str, object]
) -> None:
    service.status, service.document = status, document
    with SteadyLoad(service.url, [QUESTION], rate=200) as load:
        until(lambda: len(load.answers) > 3)
    assert len(load.failures()) == len(load.answers)


def test_a_service_that_is_gone_is_a_failure_for_each_request(service: Service) -> None:
    service.server.shutdown()
    service.server.server_close()
    with SteadyLoad(service.url, [QUESTION], rate=200) as load:
        until(lambda: len(load.answers) > 3)
    assert all("Refused" in answer.problem for answer in load.failures())
    assert len(load.failures()) == len(load.answers)


def test_waiting_for_a_version_that_never_answers_ends(service: Service) -> None:
    with SteadyLoad(service.url, [QUESTION]) as load, pytest.raises(UloraError, match=r"v9\.9\.9 gave 0 of 1"):
        load.wait_for("v9.9.9", since=0, seconds=0.1)


def test_a_failed_request_is_raised_with_its_status_and_body(service: Service) -> None:
    with SteadyLoad(service.url, [QUESTION], rate=200) as load:
        load.wait_for("v1.0.0", since=0, count=3)
        load.check()
        service.status, service.document = 503, {"message": "no version is loaded"}
        until(load.failures)
        with pytest.raises(UloraError, match=r"request \d+ failed: status 503, body .*no version is loaded"):
            load.check()


def test_waiting_ends_at_the_first_failed_request(service: Service) -> None:
    service.status = 500
    with SteadyLoad(service.url, [QUESTION]) as load, pytest.raises(UloraError, match="request 1 failed: status 500"):
        load.wait_for("v9.9.9", since=0, seconds=3600)


@pytest.mark.parametrize("body", [b"[1]", b"<html>"])
def test_a_body_that_is_not_an_object_is_a_failure(service: Service, body: bytes) -> None:
    service.body = body
    with SteadyLoad(service.url, [QUESTION], rate=200) as load:
        until(load.failures)
    assert repr(body.decode()) in load.failures()[0].problem


def test_equal_answers_differ_by_0_and_numbers_by_their_distance() -> None:
    one = answer(probabilities={"rust": 0.9, "blight": 0.1})
    assert largest_difference([one], [one]) == 0
    other = answer(probabilities={"rust": 0.9, "blight": 0.125})
    assert largest_difference([one, one], [one, other]) == pytest.approx(0.025)


@pytest.mark.parametrize("changed", [{"label": "blight"}, {"is_ood": True}, {"version": "v2.0.0"}, {"target": "apple"}])
def test_another_decision_is_no_small_difference(changed: dict[str, object]) -> None:
    assert largest_difference([answer()], [answer(**changed)]) == math.inf


def test_a_failed_answer_equals_nothing() -> None:
    failed = replace(answer(), problem="503")
    assert largest_difference([failed], [failed]) == math.inf


def answer(**changed: object) -> ClientReply:
    return ClientReply(1.0, "v1.0.0", True, {**RIGHT, **changed})


def until(holds, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        threading.Event().wait(0.01)

"""What each request gets from a replica besides its answer: an id, a line in the log if it fails, a quick refusal."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from registry.cli.logs import _Json
from registry.serving.follow import Live, LiveOptions
from registry.serving.http.request_ids import MAX_REQUEST_ID, names_of
from registry.serving.pace import Pace
from registry.store.objects import ObjectStore
from tests.support.batch_flavor import Controls, TogetherEcho
from tests.support.echo_releases import Shop, load_echo, wait_until
from tests.support.raw_http import connect, post, read_answer
from tests.support.running_app import running

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture
def controls() -> Iterator[Controls]:
    controls = Controls()
    yield controls
    controls.computing.set()


@pytest.fixture
def live(store_url: str, model: str, tmp_path: Path, controls: Controls) -> Iterator[Live]:
    def load(manifest: Any, files: Any, **how: Any) -> TogetherEcho:
        return TogetherEcho(
            manifest.version, manifest.content_sha256, load_echo(manifest, files).weights, controls=controls
        )

    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    options = LiveOptions(find=lambda flavor: load, max_batch=4)
    with Live(shop.channel(), shop.versions, shop.blobs, options) as live:
        yield live


@pytest.fixture
def http(live: Live) -> Iterator[httpx.Client]:
    with running(live) as client:
        yield client


def ask(http: httpx.Client, image: bytes = b"leaf", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    patient = {"Content-Type": "image/png", "X-Request-Timeout-Ms": "600000"}
    return http.post("/predict", content=image, headers={**patient, **named})


def test_every_answer_has_a_request_id(http: httpx.Client) -> None:
    assert ask(http, X_Request_Id="a-1.b:c").headers["X-Request-Id"] == "a-1.b:c"
    made = [ask(http).headers["X-Request-Id"], http.get("/nowhere").headers["X-Request-Id"]]
    made += [http.get("/health", headers={"X-Request-Id": bad}).headers["X-Request-Id"] for bad in ("a b", "x" * 129)]
    assert len(set(made)) == 4
    assert all(len(each) == 32 for each in made)


def test_a_refusal_reads_no_body_and_keeps_the_connection(live: Live, http: httpx.Client, controls: Controls) -> None:
    controls.computing.clear()
    first = live.submit(b"a", deadline=300)
    assert controls.at_work.wait(60)
    live.scheduler._pace = Pace(4, {4: 100.0})
    with connect(str(http.base_url)) as client:
        for _ in range(3):
            client.sendall(post(b"", "Content-Length: 100000", "X-Request-Id: me"))
            answer = read_answer(client)
            assert (answer.status, answer.headers["x-request-id"]) == (429, "me")
            assert int(answer.headers["retry-after"]) >= 1
            document = json.loads(answer.body)
            assert (document["error"], document["version"]) == ("Overloaded", "v1.0.0")
            assert document["message"]
            client.sendall(bytes(100_000))  # what comes after the answer is dropped
    controls.computing.set()
    assert first.result(60).version == "v1.0.0"


def test_a_client_that_waits_to_be_told_is_not_told(live: Live, http: httpx.Client, controls: Controls) -> None:
    controls.computing.clear()
    live.submit(b"a", deadline=300)
    assert controls.at_work.wait(60)
    live.scheduler._pace = Pace(4, {4: 100.0})
    with connect(str(http.base_url)) as client:
        client.sendall(post(b"", "Content-Length: 100000", "Expect: 100-continue"))
        assert read_answer(client).status == 429
        assert client.recv(1) == b"", "the body could be taken for a request"
    controls.computing.set()


def test_a_failure_is_logged_once_with_its_request(
    live: Live, http: httpx.Client, controls: Controls, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        answer = ask(http, b"poison", X_Request_Id="me", traceparent=PARENT)
        assert (answer.status_code, answer.json()["error"]) == (500, "InternalError")
        wait_until(lambda: any(record.levelno >= logging.ERROR for record in caplog.records))
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    line = json.loads(_Json().format(record))
    assert (line["event"], line["request_id"], line["trace_id"]) == ("request failed", "me", TRACE)
    assert "Traceback" in line["exception"]
    assert "me" in line["message"]


def test_requests_are_spans_of_their_callers_trace(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    with running(live) as http:
        ask(http, traceparent=PARENT, X_Request_Id="me")
        ask(http, traceparent="00-zz", X_Request_Id="other")
    served = {
        span.attributes["ulora.request_id"]: span
        for span in spans.get_finished_spans()
        if span.kind is trace.SpanKind.SERVER and span.attributes
    }
    assert f"{served['me'].context.trace_id:032x}" == TRACE
    assert f"{served['other'].context.trace_id:032x}" != TRACE
    assert served["me"].name == "POST /predict"
    assert served["me"].attributes["http.route"] == "/predict"


@given(value=st.one_of(st.binary(max_size=200), st.from_regex(rb"[A-Za-z0-9._-]{1,140}", fullmatch=True)))
def test_any_request_id_is_taken_as_it_is_or_replaced(value: bytes) -> None:
    name = names_of([(b"x-request-id", value)]).request_id
    assert name.isascii()
    assert name.isprintable()
    assert len(name) <= MAX_REQUEST_ID
    assert name.encode() == value or len(name) == 32
    assert names_of([(b"x-request-id", value)] * 2).request_id.encode() != value or not value


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (PARENT, True),
        (f"01-{TRACE}-00f067aa0ba902b7-01-more", True),
        (f"00-{TRACE}-00f067aa0ba902b7-01-more", False),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", False),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", False),
        (f"00-{TRACE[1:]}-00f067aa0ba902b7-01", False),
        ("", False),
    ],
)
def test_a_traceparent_counts_if_it_is_valid(value: str, valid: bool) -> None:
    assert names_of([(b"traceparent", value.encode())]).trace_id == (TRACE if valid else "")


@given(st.binary(max_size=300))
def test_no_traceparent_breaks_a_request(value: bytes) -> None:
    assert len(names_of([(b"traceparent", value)]).trace_id) in (0, 32)

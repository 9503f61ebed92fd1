"""Every call to the store ends by its deadline, also if the server sends a byte every now and then, or never ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry import parallel
from registry.errors import OutcomeUnknown, StoreDenied, StoreUnreachable
from registry.formats.canonical import sha256
from registry.parallel import time_limit
from registry.store import bounded_replies
from registry.store.client import Deadlines
from registry.store.objects import ObjectStore
from tests.servers.endless_body import EndlessServer
from tests.servers.proxy import Exchange, Fault, Proxy, Reply, drip_body, drip_headers
from tests.support.echo_releases import wait_until

KEY = "models/m/channels/staging/0999999999999.json"
SHORT = Deadlines(call=0.5, attempt=0.3, write=1.5, stall=0.5)
"""A whole reply of the faults takes two minutes."""


@pytest.fixture
def hasty(store_url: str, proxy: Proxy) -> ObjectStore:
    """A store behind the proxy that does not wait for long; its connections are open already."""
    store = ObjectStore(store_url, endpoint_url=proxy.url, deadlines=SHORT)
    client = store._client
    for each in (client.reads, client.unretried, client.transfers):
        each.list_objects_v2(Bucket=store.bucket, MaxKeys=1)
    return store


@pytest.mark.parametrize("fault", [drip_headers, drip_body], ids=lambda fault: fault.__name__)
@pytest.mark.parametrize(
    "act",
    [
        lambda store: store.get(KEY),
        lambda store: store.first("models/"),
        lambda store: list(store.list("models/")),
        lambda store: list(store.folders("models/")),
        lambda store: store.now(),
        lambda store: list(store.stream(KEY, 1003)),
        lambda store: store.versioning(),
    ],
    ids=["get", "first", "list", "folders", "now", "stream", "versioning"],
)
def test_a_reply_byte_by_byte_is_given_up(
    store: ObjectStore, hasty: ObjectStore, proxy: Proxy, fault: Fault, act: Callable[[ObjectStore], object]
) -> None:
    store.create(KEY, b"one")
    proxy.next(fault, times=100)
    with pytest.raises(StoreUnreachable, match=r"not done after 0\.5 s"):
        act(hasty)


def test_a_reply_without_end_keeps_no_thread(store: ObjectStore, hasty: ObjectStore, proxy: Proxy) -> None:
    def drip_for_ever(exchange: Exchange) -> None:
        exchange.drip(replace(exchange.forward(), body=b" " * 10**6), 0.01, body_only=True)

    store.create(KEY, b"one")
    places = parallel._THREADS.places.qsize()
    proxy.next(drip_for_ever, times=4)
    for _ in range(4):
        with pytest.raises(StoreUnreachable, match="not done after"):
            hasty.get(KEY)
    wait_until(lambda: parallel._THREADS.places.qsize() >= places)


def test_a_write_is_won_though_its_answer_drips(hasty: ObjectStore, store: ObjectStore, proxy: Proxy) -> None:
    proxy.next(drip_headers, method="PUT")
    hasty.create(KEY, b"mine")
    assert store.get(KEY).body == b"mine"


@pytest.mark.parametrize("fault", [drip_headers, drip_body], ids=lambda fault: fault.__name__)
def test_where_every_answer_drips_it_is_unknown(
    hasty: ObjectStore, store: ObjectStore, proxy: Proxy, fault: Fault
) -> None:
    proxy.next(fault, times=1000)
    with pytest.raises(OutcomeUnknown, match=KEY):
        hasty.create(KEY, b"mine")
    assert store.get(KEY).body == b"mine"


def test_an_upload_whose_answer_drips_is_looked_up(
    hasty: ObjectStore, store: ObjectStore, proxy: Proxy, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    proxy.next(drip_headers, method="PUT")
    hasty.upload("blob", tmp_path / "file", sha256(b"bytes"), 5)
    assert store.get("blob").body == b"bytes"


def test_a_command_s_time_caps_each_of_its_calls(store_url: str, proxy: Proxy) -> None:
    patient = ObjectStore(store_url, endpoint_url=proxy.url)
    patient.first("models/")
    proxy.next(drip_headers, times=100)
    with time_limit(0.3), pytest.raises(StoreUnreachable):
        patient.first("models/")
    with time_limit(0), pytest.raises(StoreUnreachable, match="the time for it is over") as over:
        patient.create(KEY, b"x")
    assert not over.value.was_sent


@pytest.mark.usefixtures("s3_env")
def test_an_endless_listing_is_not_read() -> None:
    with EndlessServer() as server:
        store = ObjectStore("s3://bucket/prefix", endpoint_url=server.url)
        with pytest.raises(StoreUnreachable, match="a reply is longer than"):
            store.first("models/")
        assert server.sent < 4 * bounded_replies.MAX_REPLY


def refusing(status: int, code: str, *headers: tuple[str, str], more: str = "") -> Fault:
    """A fault that answers with an error of S3."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message>{more}</Error>".encode()

    def answer(exchange: Exchange) -> None:
        exchange.send(Reply(status, list(headers), body))

    return answer


SERVER_TIME = "<ServerTime>2001-02-03T04:05:06Z</ServerTime>"
DATE = ("Date", "Sat, 03 Feb 2001 04:05:06 GMT")


@pytest.mark.parametrize(
    "fault",
    [refusing(403, "RequestTimeTooSkewed", more=SERVER_TIME), refusing(403, "AccessDenied", DATE)],
    ids=["code", "header"],
)
def test_a_wrong_clock_is_named_with_both_times(hasty: ObjectStore, proxy: Proxy, fault: Fault) -> None:
    proxy.next(fault)
    with pytest.raises(StoreDenied, match=r"here it is 20\d\d.* UTC, at the server 2001-02-03 04:05:06 UTC") as skewed:
        hasty.first("models/")
    assert "set the clock" in skewed.value.hint


def test_expired_credentials_are_named(hasty: ObjectStore, proxy: Proxy, s3_env: dict[str, str]) -> None:
    proxy.next(refusing(400, "ExpiredToken"))
    with pytest.raises(StoreDenied, match=rf"{s3_env['AWS_ACCESS_KEY_ID']} \(found by boto3 in: env\)") as expired:
        hasty.first("models/")
    assert "aws sso login" in expired.value.hint

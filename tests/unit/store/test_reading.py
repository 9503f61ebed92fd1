"""Reading and listing objects on a real server, over connections that break."""

from __future__ import annotations

import pytest

from registry.devstack.s3_server import S3Server
from registry.errors import (
    BadManifest,
    CorruptBlob,
    ObjectNotFound,
    StoreUnreachable,
)
from registry.store.objects import ObjectStore
from tests.servers import proxy as faults
from tests.servers.proxy import Proxy

KEY = "models/m/channels/staging/0999999999999.json"


def seen(store: ObjectStore, key: str = KEY) -> bytes:
    return store.get(key).body


def test_reads_survive_a_broken_connection(store: ObjectStore, distant: ObjectStore, proxy: Proxy) -> None:
    store.create(KEY, b"one")
    proxy.next(faults.refuse, method="GET")
    proxy.next(faults.unavailable, method="GET")
    assert seen(distant) == b"one"
    assert distant.first("models/") == KEY


def test_a_reply_that_breaks_off_is_no_answer(store: ObjectStore, distant: ObjectStore, proxy: Proxy) -> None:
    store.create(KEY, b"x" * 1000)
    proxy.next(faults.cut_body, method="GET")
    with pytest.raises(StoreUnreachable):
        distant.get(KEY)
    proxy.next(faults.cut_body, method="GET")
    with pytest.raises(StoreUnreachable):  # the reply that it is not there has a body too
        distant.get("models/m/nothing.json")


def test_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    with pytest.raises(ObjectNotFound, match=KEY):
        store.get(KEY)
    assert store.head(KEY) is None
    assert store.first("models/") is None
    assert list(store.list("models/")) == []
    store.delete(KEY)


def test_an_object_over_its_limit_is_not_read(store: ObjectStore) -> None:
    store.create(KEY, b"12345678")
    assert store.get(KEY, limit=8).body == b"12345678"
    with pytest.raises(BadManifest, match="8 bytes, more than the 7"):
        store.get(KEY, limit=7)
    with pytest.raises(CorruptBlob, match="8 bytes long, not 7"):
        list(store.stream(KEY, 7))


def test_a_listing_is_in_order_and_below_the_prefix_only(store: ObjectStore, store_url: str) -> None:
    other = ObjectStore(f"{store_url}-other")
    other.create("a", b"")
    for key in ("b/2", "b/10", "b/1", "c"):
        store.create(key, b"12")
    assert [(info.key, info.size) for info in store.list("b/")] == [("b/1", 2), ("b/10", 2), ("b/2", 2)]
    assert store.first("b/") == "b/1"
    assert [info.key for info in store.list("")] == ["b/1", "b/10", "b/2", "c"]


def test_a_store_may_be_a_whole_bucket(store_url: str, s3: S3Server) -> None:
    inner = ObjectStore(store_url)
    inner.create("a", b"1")
    whole = ObjectStore(f"s3://{s3.bucket}")
    prefix = store_url.removeprefix(f"s3://{s3.bucket}/")
    assert [info.key for info in whole.list(f"{prefix}/")] == [f"{prefix}/a"]

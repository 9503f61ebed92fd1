"""Heartbeats on a real store, and that following does not need them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.answers import ReplicaStatus
from registry.channels.channel import Channel
from registry.errors import BadInput
from registry.serving import fleet
from registry.serving.fleet import Heartbeats, Replica, all_replicas, replicas, wait_for_replicas
from registry.serving.follow import Live, LiveOptions
from registry.serving.health import Health
from registry.serving.loaders import Loader
from registry.store import layout
from registry.store.objects import ObjectStore
from tests.servers.proxy import Exchange, Proxy, Reply
from tests.support.echo_releases import Shop, find_echo, load_echo, wait_until

DENIED = Reply(403, [("Content-Type", "application/xml")], b"<Error><Code>AccessDenied</Code></Error>")


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    """A model whose production serves v1.1.0, and before that v1.0.0."""
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
        shop.promote(name)
    return shop


def follow(shop: Shop, store: ObjectStore | None = None, **options: Any) -> Live:
    heartbeats = Heartbeats(store or shop.store, shop.model, "production", every=0.1)
    options = {"poll": 0.02, "find": find_echo, **options}
    return Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(**options), fleet=heartbeats)


def seen(shop: Shop) -> list[Replica]:
    return replicas(shop.store, shop.model, "production")


def test_a_replica_says_what_it_serves_and_says_goodbye(shop: Shop) -> None:
    with follow(shop) as live:
        wait_until(lambda: seen(shop) and seen(shop)[0].heartbeat.rollback_ready)
        (replica,) = seen(shop)
        said = replica.heartbeat
        assert (said.version, said.generation, said.newest, said.state) == ("v1.1.0", 2, 2, "serving")
        assert said.resident == ("v1.0.0", "v1.1.0")
        assert said.error == ""
        assert not replica.silent
        shop.rollback()
        assert live.wait_for(version="v1.0.0", timeout=150)
        wait_until(lambda: seen(shop)[0].heartbeat.version == "v1.0.0")
    assert seen(shop) == []


def test_two_replicas_of_one_process_are_told_apart(shop: Shop) -> None:
    with follow(shop), follow(shop):
        wait_until(lambda: len(seen(shop)) == 2)


def test_a_failed_load_is_shown(shop: Shop) -> None:
    shop.release("v1.2.0")
    shop.flip_a_byte("v1.2.0", "adapters/low/adapter_model.safetensors")
    with follow(shop):
        shop.promote("v1.2.0")
        wait_until(lambda: seen(shop) and "SHA-256 mismatch" in seen(shop)[0].heartbeat.error)
        assert (seen(shop)[0].heartbeat.version, seen(shop)[0].heartbeat.newest) == ("v1.1.0", 3)


def test_a_replica_that_may_not_write_serves_without_heartbeats(shop: Shop, store_url: str, proxy: Proxy) -> None:
    def deny(exchange: Exchange) -> None:
        exchange.send(DENIED)

    proxy.next(deny, method="PUT", containing="/replicas/", times=1000)
    with follow(shop, ObjectStore(store_url, endpoint_url=proxy.url)) as live:
        wait_until(lambda: live.health().note.startswith("no heartbeats"))
        assert live.health().state == "serving"
        shop.rollback()
        assert live.wait_for(version="v1.0.0", timeout=150)
        assert live.predict(b"leaf").version == "v1.0.0"
        assert seen(shop) == []


@pytest.mark.acceptance
def test_heartbeats_begin_again_when_they_are_allowed_again(shop: Shop, store_url: str, proxy: Proxy) -> None:
    def deny(exchange: Exchange) -> None:
        exchange.send(DENIED)

    proxy.next(deny, method="PUT", containing="/replicas/", times=3)
    with follow(shop, ObjectStore(store_url, endpoint_url=proxy.url)) as live:
        wait_until(lambda: live.health().note.startswith("no heartbeats"))
        wait_until(lambda: seen(shop))
        wait_until(lambda: live.health().note == "")


def test_heartbeats_begin_again_with_the_first_look_at_the_log(shop: Shop, store_url: str, proxy: Proxy) -> None:
    """However long the pause is that refused heartbeats have led to."""
    distant = ObjectStore(store_url, endpoint_url=proxy.url)
    heartbeats = Heartbeats(distant, shop.model, "production", every=250)
    log, options = Channel(distant, shop.model, "production"), LiveOptions(poll=0.02, find=find_echo)
    refused = threading.Event()

    def deny(exchange: Exchange) -> None:
        if "/replicas/" in exchange.path:
            refused.set()
        if exchange.path.endswith(".json"):
            exchange.send(DENIED)
        else:
            exchange.send(exchange.forward())

    with Live(log, shop.versions, shop.blobs, options, fleet=heartbeats) as live:
        wait_until(lambda: seen(shop))
        proxy.next(deny, times=10_000)
        heartbeats.changed()
        wait_until(lambda: "can't be read" in live.health().error and refused.is_set() and live.health().note)
        proxy.clear()
        wait_until(lambda: live.health().note == "", seconds=100)


def test_waiting_for_replicas_tells_who_followed_and_who_did_not(shop: Shop) -> None:
    gate = threading.Event()

    def find_slow(flavor: str) -> Loader:
        def load(manifest: Any, files: Any, **how: Any) -> Any:
            assert manifest.version != "v1.2.0" or gate.wait(300)
            return load_echo(manifest, files, **how)

        return load

    with follow(shop) as quick, follow(shop, find=find_slow) as slow:
        wait_until(lambda: len(seen(shop)) == 2)
        shop.release("v1.2.0")
        generation = shop.promote("v1.2.0").generation
        assert quick.wait_for(generation=generation, timeout=150)

        wait_until(lambda: len(wait_for_replicas(shop.store, shop.model, "production", generation, 0).followed) == 1)
        state = wait_for_replicas(shop.store, shop.model, "production", generation, timeout=0)
        assert [replica.heartbeat.generation for replica in state.behind] == [2]

        gate.set()
        assert slow.wait_for(generation=generation, timeout=150)
        state = wait_for_replicas(shop.store, shop.model, "production", generation, timeout=150)
        assert (len(state.followed), len(state.behind), len(state.silent)) == (2, 0, 0)


def test_a_replica_that_fell_silent_holds_nobody_up(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with follow(shop):
        wait_until(lambda: seen(shop))
        monkeypatch.setattr(fleet, "SILENT_AFTER", -3600)
        state = wait_for_replicas(shop.store, shop.model, "production", 99, timeout=600)
        assert (len(state.followed), len(state.behind), len(state.silent)) == (0, 0, 1)


def test_silence_is_told_by_the_servers_clock(shop: Shop) -> None:
    with follow(shop):
        wait_until(lambda: seen(shop))
        (replica,) = seen(shop)
    assert not replica.silent
    assert replace(replica, age=60.0).silent


def test_a_replica_that_is_silent_for_an_hour_is_gone(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with follow(shop):
        wait_until(lambda: seen(shop))
        (replica,) = seen(shop)
        assert not replica.gone
        assert not replace(replica, age=3599.0).gone
        assert replace(replica, age=3601.0).gone
        monkeypatch.setattr(fleet, "GONE_AFTER", -3600)
        assert seen(shop) == []
        (kept,) = all_replicas(shop.store, shop.model, "production")
        assert kept.heartbeat.id == replica.heartbeat.id


@pytest.mark.acceptance
def test_waiting_reads_again_only_those_that_are_behind(shop: Shop, store_url: str, proxy: Proxy) -> None:
    with follow(shop), follow(shop), follow(shop):
        wait_until(lambda: len(seen(shop)) == 3)
        said = seen(shop)[0].heartbeat
        late = said.model_copy(update={"id": "late-1", "generation": 1})
        key = layout.replica(shop.model, "production", late.id)
        shop.store.overwrite(key, late.to_bytes())

        through = ObjectStore(store_url, endpoint_url=proxy.url)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(wait_for_replicas, through, shop.model, "production", 2, timeout=300)
            wait_until(lambda: sum("/late-1.json" in path for _, path in proxy.requests) >= 3)
            assert not waiting.done()
            shop.store.overwrite(key, said.model_copy(update={"id": "late-1"}).to_bytes())
            state = waiting.result()
    assert (len(state.followed), len(state.behind), len(state.silent)) == (4, 0, 0)
    others = [path for _, path in proxy.requests if ".json" in path and "/late-1.json" not in path]
    assert len(others) == 3
    assert sum("list-type=2" in path for _, path in proxy.requests) == 1


@pytest.mark.parametrize("body", [b"{}", b"\xff{", b" " * 100_000])
def test_a_heartbeat_that_cannot_be_read_follows_nothing(shop: Shop, body: bytes) -> None:
    shop.store.overwrite(layout.replica(shop.model, "production", "r-1"), body)
    state = wait_for_replicas(shop.store, shop.model, "production", 1, timeout=0)
    assert [one.heartbeat.id for one in state.behind] == ["r-1"]
    shown = ReplicaStatus.of(state.behind[0], "not told")
    assert (shown.state, shown.generation) == ("unreadable", 0)
    assert shown.error.startswith("its heartbeat can't be read: ")


@pytest.mark.acceptance
def test_one_whose_heartbeat_became_unreadable_stays_behind(shop: Shop, store_url: str, proxy: Proxy) -> None:
    with follow(shop):
        wait_until(lambda: seen(shop))
        (replica,) = seen(shop)
        late = replica.heartbeat.model_copy(update={"id": "late-1", "generation": 1})
        shop.store.overwrite(layout.replica(shop.model, "production", "late-1"), late.to_bytes())
        through = ObjectStore(store_url, endpoint_url=proxy.url)
        pages = 0

        def page(exchange: Exchange) -> None:
            nonlocal pages
            pages += 1
            true = exchange.forward()
            exchange.send(true if pages == 1 else Reply(200, true.headers, b"{}"))

        proxy.next(page, method="GET", containing="/late-1.json", times=100)
        state = wait_for_replicas(through, shop.model, "production", 2, timeout=1)
    assert pages > 1
    assert [one.heartbeat.id for one in state.behind] == ["late-1"]


@pytest.mark.acceptance
def test_one_that_says_goodbye_is_not_waited_for(shop: Shop, store_url: str, proxy: Proxy) -> None:
    with follow(shop):
        wait_until(lambda: seen(shop))
        through = ObjectStore(store_url, endpoint_url=proxy.url)
        pool = ThreadPoolExecutor(1)
        waiting = pool.submit(wait_for_replicas, through, shop.model, "production", 99, timeout=300)
        wait_until(lambda: len(proxy.requests) >= 3)
        assert not waiting.done()
    state = waiting.result()
    pool.shutdown()
    assert (state.followed, state.behind, state.silent) == ((), (), ())


@pytest.mark.parametrize("timeout", [float("nan"), -1.0])
def test_nobody_can_wait_for_no_number_of_seconds(shop: Shop, timeout: float) -> None:
    with pytest.raises(BadInput, match="can't wait for"):
        wait_for_replicas(shop.store, shop.model, "production", 1, timeout)


def test_what_is_no_heartbeat_does_not_hide_the_others(shop: Shop) -> None:
    folder = layout.replicas(shop.model, "production")
    junk = {"empty": b"", "junk": b"\xff{", "large": b" " * 100_000, "other": b'{"format":1}'}
    for name, body in junk.items():
        shop.store.overwrite(f"{folder}{name}.json", body)

    def readable() -> list[Replica]:
        return [one for one in seen(shop) if one.heartbeat.state != "unreadable"]

    with follow(shop):
        wait_until(lambda: len(readable()) == 1)
        shop.store.overwrite(f"{folder}copy.json", readable()[0].heartbeat.to_bytes())
        assert len(readable()) == 1
        assert [one.heartbeat.id for one in seen(shop) if one.heartbeat.state == "unreadable"] == list(junk)


def leave(shop: Shop, *names: str) -> None:
    """Heartbeats of replicas that were killed."""
    for name in names:
        said = Health("serving", shop.model, "production", "v1.1.0", 2, 2, "", True, (), 0.0, "cpu").heartbeat(name)
        shop.store.overwrite(layout.replica(shop.model, "production", name), said.to_bytes())


def test_heartbeats_of_replicas_that_are_gone_are_not_read(
    shop: Shop, store_url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(shop, "a", "b", "c")
    store = ObjectStore(store_url, endpoint_url=proxy.url)
    monkeypatch.setattr(fleet, "_FEW", 2)
    assert [each.heartbeat.id for each in replicas(store, shop.model, "production")] == ["a", "b", "c"]
    monkeypatch.setattr(fleet, "GONE_AFTER", -60.0)
    proxy.clear()
    assert replicas(store, shop.model, "production") == []
    assert [path for _, path in proxy.requests if path.endswith(".json")] == []


def test_the_heartbeats_that_were_written_last_are_read(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(shop, "a", "b")
    first = shop.store.head(layout.replica(shop.model, "production", "b"))
    assert first is not None
    wait_until(lambda: shop.store.now() > (first.modified or shop.store.now()))
    leave(shop, "z")
    monkeypatch.setattr(fleet, "MAX_REPLICAS", 1)
    assert [each.heartbeat.id for each in seen(shop)] == ["z"]

"""A server that sends more than it announced is refused; of one that stops honouring conditions people are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import RollbackOptions
from registry.errors import BadManifest, CorruptBlob, Overwritten, StoreUnreachable
from registry.store import layout
from registry.store.blobs import Blobs
from registry.store.objects import ObjectStore
from registry.versions.manifest import FileEntry
from tests.servers.endless_body import EndlessServer
from tests.servers.proxy import Exchange, Fault, Proxy, Reply, cut_body, unavailable
from tests.servers.without_conditions import IgnoreConditions
from tests.support.registries import bind, create, open_registry
from tests.support.run_ulora import complains, ulora

ENOUGH = 32 * 1024 * 1024
"""Bytes that buffers on the way may take in."""


@pytest.mark.usefixtures("s3_env")
def test_an_endless_answer_is_not_read(tmp_path: Path) -> None:
    with EndlessServer() as server:
        store = ObjectStore("s3://bucket/prefix", endpoint_url=server.url)
        with pytest.raises(StoreUnreachable, match="does not say its length"):
            store.get("models/x/versions/v1.0.0.json", 1000)
        file = FileEntry(path="a", size=10, sha256="a" * 64)
        with pytest.raises(CorruptBlob, match="not 10"):
            Blobs(store, tmp_path).fetch([file])
        assert list(tmp_path.rglob("*.part")) == []
        assert server.sent < ENOUGH


def test_an_object_announced_as_too_large_is_not_read(store_url: str) -> None:
    store = ObjectStore(store_url)
    key = layout.replica("m", "production", "one")
    store.overwrite(key, b" " * 70_000)
    with pytest.raises(BadManifest, match="70000 bytes, more than the 65536"):
        store.get(key, 65536)


# --- a server that honours conditions when it is probed, and not later -----------------------------------------------

V1, V2, V3 = "v1.0.0", "v2.0.0", "v3.0.0"
PUBLISHED = "/channels/production/"


@pytest.fixture
def ann(store_url: str, model: str, tmp_path: Path, proxy: Proxy) -> Registry:
    """By way of the proxy. Two generations in production; the store was probed."""
    straight = open_registry(tmp_path, store_url, model)
    straight.store.initialise()
    bind(straight, V1, V2, V3)
    straight.promote(V1, "production")
    straight.promote(V2, "production")
    return person("ann", straight, tmp_path, proxy)


@pytest.fixture
def ignoring(store_url: str) -> IgnoreConditions:
    return IgnoreConditions(ObjectStore(store_url))


def person(who: str, registry: Registry, folder: Path, proxy: Proxy) -> Registry:
    """The same store by way of the proxy, probed while it still honoured conditions."""
    opened = open_registry(folder / who, registry.settings.store, registry.model, endpoint_url=proxy.url, who=who)
    opened.wiring.check_writable()
    return opened


def heard(act: Callable[[], object]) -> str:
    """What a caller is told: `done`, or the name of the error."""
    try:
        act()
    except Exception as error:
        return type(error).__name__
    return "done"


def after(act: Callable[[], object], then: Fault) -> Fault:
    """A fault before which something else happens: the loser of a race is held until the other has finished."""

    def fault(exchange: Exchange) -> None:
        act()
        then(exchange)

    return fault


def test_two_promoters_of_one_generation_are_both_told(
    ann: Registry, tmp_path: Path, proxy: Proxy, ignoring: IgnoreConditions
) -> None:
    bob, told = person("bob", ann, tmp_path, proxy), []
    first = after(lambda: told.append(heard(lambda: bob.promote(V1, "production"))), ignoring)
    proxy.next(first, method="PUT", containing=PUBLISHED)
    ignoring.begin(proxy)
    with pytest.raises(Overwritten, match=r"generation 3 of production: .* may have replaced") as error:
        ann.promote(V3, "production")
    assert told == ["Overwritten"]
    assert (error.value.exit_code, "ulora doctor" in error.value.hint) == (6, True)


def test_whoever_overwrites_a_record_that_stood_is_told(
    ann: Registry, tmp_path: Path, proxy: Proxy, ignoring: IgnoreConditions
) -> None:
    """Also when it is a rollback that is lost, which reads nothing back."""
    bob, told = person("bob", ann, tmp_path, proxy), []

    def roll_back() -> None:
        told.append(heard(lambda: bob.rollback(options=RollbackOptions(leave=V2))))
        ignoring.begin(proxy)

    proxy.next(after(roll_back, ignoring), method="PUT", containing=PUBLISHED)
    assert heard(lambda: ann.promote(V3, "production")) == "Overwritten"
    assert told == ["done"]


def test_a_promoter_whose_record_was_replaced_is_told(
    ann: Registry, tmp_path: Path, proxy: Proxy, ignoring: IgnoreConditions
) -> None:
    """The condition is ignored for records only, so no probe finds it: what is read back does."""
    bob, record = person("bob", ann, tmp_path, proxy), layout.record(ann.model, "production", 3)

    def pass_on(exchange: Exchange) -> None:
        exchange.send(exchange.forward())

    def replace() -> None:
        other = json.loads(ann.store.get(record).body) | {"who": "bob", "nonce": "0" * 32}
        bob.store.overwrite(record, json.dumps(other, sort_keys=True, separators=(",", ":")).encode())

    proxy.next(after(replace, pass_on), method="GET", containing=record)
    with pytest.raises(Overwritten, match=r"generation 3 of production: .* does not hold"):
        ann.promote(V3, "production")


def test_two_creators_of_one_name_are_both_told(
    ann: Registry, tmp_path: Path, proxy: Proxy, ignoring: IgnoreConditions
) -> None:
    bob, told = person("bob", ann, tmp_path, proxy), []
    first = after(lambda: told.append(heard(lambda: create(bob, "v4.0.0", tmp_path / "bob", seed=1))), ignoring)
    proxy.next(first, method="PUT", containing="/versions/")
    ignoring.begin(proxy, "/versions/")
    ignoring.begin(proxy, "format.json")
    assert heard(lambda: create(ann, "v4.0.0", tmp_path, seed=2)) == "Overwritten"
    assert told == ["Overwritten"]


@pytest.mark.parametrize(("fault", "times"), [(unavailable, 100), (cut_body, 1)])
def test_a_promotion_that_stands_never_looks_failed(ann: Registry, proxy: Proxy, fault: Fault, times: int) -> None:
    proxy.next(fault, method="GET", containing=layout.record(ann.model, "production", 3), times=times)
    change = ann.promote(V3, "production")
    assert change.changed
    assert "could not be read back" in change.notes[0]
    assert "whether generation 3 stands" in change.notes[0]


def test_a_half_reply_is_read_again_before_anybody_is_alarmed(ann: Registry, proxy: Proxy) -> None:
    def half(exchange: Exchange) -> None:
        reply = exchange.forward()
        exchange.send(Reply(reply.status, reply.headers, reply.body[: len(reply.body) // 2]))

    proxy.next(half, method="GET", containing=layout.record(ann.model, "production", 3))
    change = ann.promote(V3, "production")
    assert (change.changed, [note for note in change.notes if "read back" in note]) == (True, [])


def test_the_doctor_and_status_say_that_the_store_is_unfit(
    ann: Registry, proxy: Proxy, ignoring: IgnoreConditions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ULORA_MODEL", ann.model)
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "new"))
    assert "never tested by this machine" in ulora("status").out
    assert ulora("status", "--json").document["probed"] is None
    assert ulora("doctor").code == 0
    assert ": honoured" in ulora("status").out
    ignoring.begin(proxy)
    complains(ulora("doctor"), 1, "store")
    assert "NOT honoured" in ulora("status").out
    assert ulora("status", "--json").document["probed"]["honoured"] is False


def test_status_knows_what_a_promotion_found(ann: Registry, proxy: Proxy, ignoring: IgnoreConditions) -> None:
    assert ann.status().probed.honoured
    proxy.next(
        after(lambda: ignoring.begin(proxy), lambda exchange: exchange.send(exchange.forward())),
        method="PUT",
        containing=PUBLISHED,
    )
    with pytest.raises(Overwritten, match="may have replaced"):
        ann.promote(V3, "production")
    assert not ann.status().probed.honoured


def test_status_knows_what_a_refused_promotion_found(ann: Registry, proxy: Proxy, ignoring: IgnoreConditions) -> None:
    newcomer = open_registry(ann.settings.cache, ann.settings.store, ann.model, endpoint_url=proxy.url)
    newcomer.wiring.last_probe.note(honoured=True)
    ignoring.begin(proxy)
    assert heard(lambda: newcomer.promote(V3, "production")) == "StoreUnfit"
    assert not newcomer.status().probed.honoured

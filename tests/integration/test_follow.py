"""Following a channel on a real store: switches, failures, and the health that is reported."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from registry.channels.channel import Channel
from registry.channels.record import ChannelPosition, Record, promoted
from registry.devstack.s3_server import S3Server
from registry.errors import (
    BrokenChain,
    ChannelEmpty,
    CorruptBlob,
    LoadFailed,
    ReplicaClosed,
    SelfTestFailed,
    StoreUnreachable,
)
from registry.parallel import in_parallel
from registry.serving.follow import Live, LiveOptions
from registry.serving.loaders import Loader, LoadOptions, load_version
from registry.serving.log_reader import LogReader
from registry.store import layout
from registry.store.objects import ObjectStore
from registry.versions.manifest import Manifest
from tests.servers.proxy import Exchange, Proxy, Reply, Stall, unavailable
from tests.support.echo_releases import TESTER, Echo, Shop, find_echo, load_echo, wait_until

WEIGHTS = "adapters/low/adapter_model.safetensors"


@dataclass
class Workshop:
    """A loader that records what it loads, and fails or waits on demand."""

    loads: list[str] = field(default_factory=list)
    broken: dict[str, Exception] = field(default_factory=dict)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    at_gate: threading.Event = field(default_factory=threading.Event)

    def find(self, flavor: str) -> Loader:
        return self.load

    def load(self, manifest: Manifest, files: Mapping[str, Path], **how: Any) -> Echo:
        self.loads.append(manifest.version)
        if gate := self.gates.get(manifest.version):
            self.at_gate.set()
            assert gate.wait(300)
        if error := self.broken.get(manifest.version):
            raise error
        return load_echo(manifest, files, **how)


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    return Shop(ObjectStore(store_url), model, tmp_path)


def follow(shop: Shop, **options: Any) -> Live:
    options = {"poll": 0.02, "retry": 0.02, "find": find_echo, **options}
    return Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(**options))


@pytest.fixture
def two_versions(shop: Shop) -> Iterator[Live]:
    """A replica of a channel that went from v1.0.0 to v1.1.0."""
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
        shop.promote(name)
    with follow(shop) as live:
        wait_until(lambda: live.health().rollback_ready)
        yield live


def test_a_promotion_and_a_rollback_are_followed(shop: Shop, two_versions: Live) -> None:
    shop.release("v1.2.0")
    record = shop.promote("v1.2.0")
    assert two_versions.wait_for(version="v1.2.0", generation=record.generation, timeout=150)
    assert two_versions.predict(b"leaf").version == "v1.2.0"

    record = shop.rollback()
    assert two_versions.wait_for(generation=record.generation, timeout=150)
    assert (two_versions.version, two_versions.record.nonce) == ("v1.1.0", record.nonce)


def test_an_answer_comes_from_the_bytes_of_the_version_it_names(shop: Shop, two_versions: Live) -> None:
    answers = {}
    for name in ("v1.0.0", "v1.1.0"):
        loaded = load_version(shop.versions, shop.blobs, shop.pointer(name), LoadOptions(find=find_echo))
        answers[name] = loaded.predict([b"leaf"])[0]
    assert two_versions.predict(b"leaf") == answers["v1.1.0"] != answers["v1.0.0"]


def test_many_changes_at_once_lead_straight_to_the_newest(shop: Shop) -> None:
    workshop = Workshop()
    for number in range(6):
        shop.release(f"v1.{number}.0")
    shop.promote("v1.0.0")
    with follow(shop, poll=3600, find=workshop.find) as live:
        for number in range(1, 6):
            shop.promote(f"v1.{number}.0")
        live.refresh()
        assert live.wait_for(version="v1.5.0", generation=6, timeout=150)
        wait_until(lambda: live.health().rollback_ready)
    assert sorted(workshop.loads) == ["v1.0.0", "v1.4.0", "v1.5.0"]


def test_the_rollback_target_is_loaded_before_it_is_called_ready(shop: Shop) -> None:
    workshop = Workshop(gates={"v1.0.0": threading.Event()})
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
        shop.promote(name)
    with follow(shop, find=workshop.find) as live:
        assert workshop.at_gate.wait(300)
        assert not live.health().rollback_ready
        workshop.gates["v1.0.0"].set()
        wait_until(lambda: live.health().rollback_ready)
        assert live.health().resident == ("v1.0.0", "v1.1.0")


def test_what_no_rollback_needs_leaves_memory(shop: Shop, two_versions: Live) -> None:
    shop.release("v1.2.0")
    shop.promote("v1.2.0")
    wait_until(lambda: two_versions.health().resident == ("v1.1.0", "v1.2.0"))
    shop.rollback()
    # The version served before stays too, so that undoing a rollback is as fast as a rollback.
    wait_until(lambda: two_versions.health().resident == ("v1.0.0", "v1.1.0", "v1.2.0"))


def test_a_load_delays_neither_answers_nor_a_rollback(shop: Shop) -> None:
    workshop = Workshop(gates={"v1.2.0": threading.Event()})
    for name in ("v1.0.0", "v1.1.0", "v1.2.0"):
        shop.release(name)
    shop.promote("v1.0.0")
    shop.promote("v1.1.0")
    with follow(shop, find=workshop.find) as live:
        wait_until(lambda: live.health().rollback_ready)
        shop.promote("v1.2.0")
        assert workshop.at_gate.wait(300)
        wait_until(lambda: live.health().newest == 3)
        assert live.predict(b"leaf").version == "v1.1.0"

        shop.rollback()
        last = shop.rollback()
        assert live.wait_for(version="v1.0.0", generation=last.generation, timeout=150)
        workshop.gates["v1.2.0"].set()
        assert not live.wait_for(version="v1.2.0", timeout=0.2)


def test_a_request_keeps_the_version_that_it_began_with(shop: Shop, two_versions: Live) -> None:
    pinned = two_versions.serving
    record = shop.rollback()
    assert two_versions.wait_for(generation=record.generation, timeout=150)
    assert pinned.route("user-7").predict([b"leaf"])[0].version == "v1.1.0"


def test_a_corrupt_blob_is_refused_and_the_old_version_stays(shop: Shop, two_versions: Live) -> None:
    shop.release("v1.2.0")
    repair = shop.flip_a_byte("v1.2.0", WEIGHTS)
    shop.promote("v1.2.0")
    wait_until(lambda: "SHA-256 mismatch" in two_versions.health().error)
    assert two_versions.predict(b"leaf").version == "v1.1.0"
    assert two_versions.health().state == "serving"
    with pytest.raises(CorruptBlob):
        load_version(shop.versions, shop.blobs, shop.pointer("v1.2.0"), LoadOptions(find=find_echo))

    repair()
    assert two_versions.wait_for(version="v1.2.0", timeout=150)
    assert two_versions.health().error == ""


def test_a_missing_blob_means_not_yet(shop: Shop, two_versions: Live) -> None:
    shop.release("v1.2.0")
    bring_back = shop.lose("v1.2.0", WEIGHTS)
    shop.promote("v1.2.0")
    wait_until(lambda: "not in the store" in two_versions.health().error)
    assert two_versions.predict(b"leaf").version == "v1.1.0"
    bring_back()
    assert two_versions.wait_for(version="v1.2.0", timeout=150)


@pytest.mark.parametrize(
    ("error", "said"),
    [(RuntimeError("no kernel"), "RuntimeError: no kernel"), (SelfTestFailed("another label"), "another label")],
)
def test_a_load_that_fails_is_shown_and_tried_again(shop: Shop, error: Exception, said: str) -> None:
    workshop = Workshop(broken={"v1.1.0": error})
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
    shop.promote("v1.0.0")
    with follow(shop, find=workshop.find) as live:
        shop.promote("v1.1.0")
        wait_until(lambda: said in live.health().error)
        assert (live.health().state, live.health().newest, live.health().generation) == ("serving", 2, 1)
        assert live.predict(b"leaf").version == "v1.0.0"
        workshop.broken.clear()
        assert live.wait_for(version="v1.1.0", timeout=150)
        assert live.health().error == ""


def test_a_version_that_never_loads_is_left_by_a_rollback(shop: Shop) -> None:
    workshop = Workshop(broken={"v1.1.0": RuntimeError("no kernel")})
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
    shop.promote("v1.0.0")
    with follow(shop, find=workshop.find) as live:
        shop.promote("v1.1.0")
        wait_until(lambda: live.health().error)
        shop.rollback()
        assert live.wait_for(version="v1.0.0", generation=3, timeout=150)
        assert live.health().error == ""


def test_the_first_load_says_why_it_fails(shop: Shop) -> None:
    with pytest.raises(ChannelEmpty, match="serves no version yet"):
        follow(shop).start()
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    with pytest.raises(LoadFailed, match=r"v1\.0\.0 can't be loaded: ValueError: no kernel"):
        follow(shop, find=Workshop(broken={"v1.0.0": ValueError("no kernel")}).find).start()
    shop.release("v1.1.0")
    shop.promote("v1.1.0")
    shop.flip_a_byte("v1.1.0", WEIGHTS)
    with pytest.raises(CorruptBlob):
        follow(shop).start()


def test_a_rollback_overtakes_the_first_load(shop: Shop) -> None:
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
        shop.promote(name)
    gate = threading.Event()
    workshop = Workshop(gates={"v1.1.0": gate})
    live = follow(shop, find=workshop.find)
    starting = threading.Thread(target=live.start)
    starting.start()
    assert workshop.at_gate.wait(300)
    record = shop.rollback()
    starting.join(300)  # nobody opens the gate before
    with closing(live):
        assert (live.version, live.record.generation) == ("v1.0.0", record.generation)
        gate.set()
        assert live.predict(b"leaf").version == "v1.0.0"


def test_the_log_is_read_after_the_first_load_too(shop: Shop) -> None:
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
        shop.promote(name)

    def find(flavor: str) -> Loader:
        def load(manifest: Manifest, files: Mapping[str, Path], **how: Any) -> Echo:
            if manifest.version == "v1.1.0":
                shop.rollback()
            return load_echo(manifest, files, **how)

        return load

    with follow(shop, find=find, poll=3600) as live:
        assert live.version == "v1.0.0"


def test_a_log_that_went_backwards_is_not_followed(shop: Shop, two_versions: Live) -> None:
    newest = two_versions.record
    key = layout.record(shop.model, "production", newest.generation)
    shop.store.delete(key)
    wait_until(lambda: "regressed" in two_versions.health().error)
    assert two_versions.version == "v1.1.0"

    shop.store.create(key, newest.to_bytes())
    wait_until(lambda: two_versions.health().error == "")
    shop.release("v1.2.0")
    shop.promote("v1.2.0")
    assert two_versions.wait_for(version="v1.2.0", timeout=150)


@pytest.mark.acceptance
def test_a_log_that_was_rewritten_is_not_taken_for_the_one_seen(shop: Shop, two_versions: Live) -> None:
    shop.store.delete(layout.record(shop.model, "production", 2))
    shop.promote("v1.0.0")  # nothing to change for the store, but another record than the one that was seen
    shop.release("v1.2.0")
    shop.store.delete(layout.record(shop.model, "production", 2))
    shop.promote("v1.2.0")
    wait_until(lambda: "regressed" in two_versions.health().error)
    assert two_versions.version == "v1.1.0"


def other(record: Record, **changes: Any) -> bytes:
    """A record that somebody put in place of another one."""
    return record.model_copy(update={"reason": "nobody saw this", **changes}).to_bytes()


@pytest.mark.acceptance
def test_a_record_that_continues_another_history_is_refused(shop: Shop) -> None:
    for name in ("v1.0.0", "v1.1.0", "v1.2.0"):
        shop.release(name)
    shop.promote("v1.0.0")
    seen = shop.promote("v1.1.0")
    with follow(shop, poll=3600) as live:
        key = layout.record(shop.model, "production", seen.generation)
        shop.store.overwrite(key, other(seen))
        shop.promote("v1.2.0")
        live.refresh()
        wait_until(lambda: "broken chain: generation 2 of production does not hash" in live.health().error)
        assert (live.version, live.health().state) == ("v1.1.0", "serving")

        # The log continues again what was seen.
        shop.store.overwrite(key, seen.to_bytes())
        shop.store.delete(layout.record(shop.model, "production", 3))
        shop.promote("v1.2.0")
        live.refresh()
        assert live.wait_for(version="v1.2.0", timeout=150)
        assert live.health().error == ""


def test_a_head_with_other_bytes_and_the_same_nonce_is_refused(shop: Shop, two_versions: Live) -> None:
    newest = two_versions.record
    key = layout.record(shop.model, "production", newest.generation)
    shop.store.overwrite(key, other(newest))
    wait_until(lambda: "regressed" in two_versions.health().error)
    shop.store.overwrite(key, newest.to_bytes())
    wait_until(lambda: two_versions.health().error == "")


@pytest.mark.acceptance
@pytest.mark.parametrize("broken", [3, 70], ids=["early", "in the second batch"])
def test_every_link_of_a_long_way_is_checked(shop: Shop, broken: int) -> None:
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
    shop.promote("v1.0.0")
    log = LogReader(shop.channel())
    assert log.read(150)
    pointers = [shop.pointer(name) for name in ("v1.1.0", "v1.0.0")]
    head = shop.channel().head()
    records = []
    for number in range(80):
        head = promoted(ChannelPosition(shop.model, "production", head), pointers[number % 2], TESTER, None)
        records.append(head)
    keys = [layout.record(shop.model, "production", record.generation) for record in records]
    in_parallel(lambda pair: shop.store.create(pair[0], pair[1].to_bytes()), zip(keys, records, strict=True))
    good = records[broken - 2]
    shop.store.overwrite(keys[broken - 2], other(good))
    with pytest.raises(BrokenChain, match=f"broken chain: generation {broken} of production does not hash"):
        log.read(150)
    shop.store.delete(keys[broken - 2])
    with pytest.raises(BrokenChain, match=r"broken chain: .* is not in the store"):
        log.read(150)
    shop.store.overwrite(keys[broken - 2], good.to_bytes())
    newest = log.read(150)
    assert newest
    assert newest.sha256 == records[-1].sha256


@pytest.mark.acceptance
def test_a_read_that_hangs_is_said_and_holds_up_no_later_one(shop: Shop, store_url: str, proxy: Proxy) -> None:
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
    shop.promote("v1.0.0")
    behind_proxy = Shop(ObjectStore(store_url, endpoint_url=proxy.url), shop.model, shop.folder)
    with follow(behind_proxy, read_seconds=0.2, max_staleness=0.5) as live:
        stall = Stall()
        proxy.next(stall, containing="/channels/", times=1000)
        proxy.next(stall, containing="list-type", times=1000)
        wait_until(lambda: live.health().state == "not ready")
        wait_until(lambda: "did not answer within 0.2 s" in live.health().error)
        assert re.search(r"the log can't be read since \d{4}-\d\d-\d\dT[^ ]+: ", live.health().error)
        assert live.predict(b"leaf").version == "v1.0.0"
        shop.promote("v1.1.0")
        proxy.clear()
        stall.release()
        assert live.wait_for(version="v1.1.0", timeout=150)
        assert (live.health().state, live.health().error) == ("serving", "")


@pytest.mark.acceptance
def test_a_load_that_lacked_the_store_is_tried_when_it_is_back(shop: Shop, store_url: str, proxy: Proxy) -> None:
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
    shop.promote("v1.0.0")
    behind_proxy = Shop(ObjectStore(store_url, endpoint_url=proxy.url), shop.model, shop.folder / "other")
    with follow(behind_proxy, retry=3600) as live:
        proxy.next(unavailable, containing="/blobs/", times=1000)
        shop.promote("v1.1.0")
        wait_until(lambda: "v1.1.0 was not loaded" in live.health().error)
        proxy.next(unavailable, containing="/channels/", times=1000)
        proxy.next(unavailable, containing="list-type", times=1000)
        wait_until(lambda: "can't be read" in live.health().error)
        proxy.clear()
        assert live.wait_for(version="v1.1.0", timeout=150)


def test_refresh_reads_the_log_and_many_calls_are_few_reads(shop: Shop, store_url: str, proxy: Proxy) -> None:
    shop.release("v1.0.0")
    shop.release("v1.1.0")
    shop.promote("v1.0.0")
    behind_proxy = Shop(ObjectStore(store_url, endpoint_url=proxy.url), shop.model, shop.folder)
    with follow(behind_proxy, poll=3600) as live:
        for _ in range(1000):
            live.refresh()
        shop.promote("v1.1.0")
        live.refresh()
        assert live.wait_for(version="v1.1.0", timeout=150)
    looks = [path for method, path in proxy.requests if method == "GET" and "/channels/" in path]
    assert len(looks) < 50


def test_a_closed_replica_says_so(shop: Shop) -> None:
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    live = follow(shop)
    with pytest.raises(ReplicaClosed, match="not started"):
        live.predict(b"leaf")
    with live:
        assert live.predict(b"leaf").version == "v1.0.0"
    assert live.health().state == "closed"
    with pytest.raises(ReplicaClosed, match="was closed"):
        live.predict(b"leaf")
    live.close()
    assert not {"ulora-follower", "ulora-loader"} & {
        thread.name for thread in threading.enumerate() if _is_of(thread, live)
    }


def _is_of(thread: threading.Thread, live: Live) -> bool:
    return thread in (live._thread, live._residents._thread)


def test_a_forked_process_is_refused_and_leaves_its_parent_alone(two_versions: Live) -> None:
    child = os.fork()
    if child == 0:
        two_versions.close()
        try:
            two_versions.predict(b"leaf")
        except ReplicaClosed as error:
            os._exit(0 if "after the fork" in error.hint else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert two_versions.predict(b"leaf").version == "v1.1.0"


@pytest.mark.acceptance
def test_without_the_store_it_serves_on_and_says_so(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = S3Server(tmp_path / "s3")
    try:
        for name, value in server.start().env.items():
            monkeypatch.setenv(name, value)
        shop = Shop(ObjectStore(f"s3://{server.bucket}/mine"), model, tmp_path)
        shop.release("v1.0.0")
        shop.release("v1.1.0")
        shop.promote("v1.0.0")
        with follow(shop, stale_after=0.5, max_staleness=2) as live:
            server.kill()
            wait_until(lambda: live.health().state == "stale")
            assert live.health().ready
            wait_until(lambda: live.health().state == "not ready")
            assert not live.health().ready
            wait_until(lambda: "can't be read" in live.health().error)
            assert live.predict(b"leaf").version == "v1.0.0"
            with pytest.raises(StoreUnreachable):
                follow(shop).start()

            server.start()
            shop.promote("v1.1.0")
            assert live.wait_for(version="v1.1.0", timeout=300)
            assert (live.health().state, live.health().error) == ("serving", "")
    finally:
        server.kill()


def test_a_listing_that_lags_is_no_log_that_went_back(shop: Shop, store_url: str, proxy: Proxy) -> None:
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
    shop.promote("v1.0.0")
    listings: list[Reply] = []

    def list_the_past(exchange: Exchange) -> None:
        listings.append(listings[0] if listings else exchange.forward())
        exchange.send(listings[0])

    proxy.next(list_the_past, method="GET", containing="list-type=2", times=1000)
    log = LogReader(Channel(ObjectStore(store_url, endpoint_url=proxy.url), shop.model, "production"))
    seen = []
    for name in ("v1.1.0", "v1.0.0", "v1.1.0"):
        shop.promote(name)
        seen += [record.generation for _ in range(31) if (record := log.read(150))]
    assert seen == [2] * 31 + [3] * 31 + [4] * 31
    assert len(listings) > 3

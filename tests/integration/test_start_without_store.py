"""A replica starts from what its machine keeps while the store does not answer, and catches up when it does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest

from registry.api import Registry
from registry.channels.record import Record
from registry.devstack.s3_server import S3Server
from registry.errors import BadManifest, CorruptBlob, NotTrusted, StoreDenied, StoreUnreachable
from registry.formats import canonical
from registry.serving.follow import Live, LiveOptions
from registry.serving.kept_state import KeptState, StatePlace, read_state, write_state
from registry.store import layout
from registry.store.endpoint import named_endpoint
from registry.versions.backbones import FetchBlob, LocalBackbone
from registry.versions.manifest import BackboneRef, Manifest
from tests.servers.proxy import Proxy, Stall, answering, refuse
from tests.support.echo_releases import Echo, Shop, find_echo, load_echo, wait_until
from tests.support.hanging_flavor import FLAVOR, serving
from tests.support.registries import open_registry
from tests.support.signing_keys import Pair, key_pair
from tests.support.trials import start_trial
from tests.support.unwritable_folder import no_right_to_write

WEIGHTS = "adapters/low/adapter_model.safetensors"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server of the test's own, which it may kill."""
    server = S3Server(tmp_path / "s3")
    try:
        for name, value in server.start().env.items():
            monkeypatch.setenv(name, value)
        yield server
    finally:
        server.kill()


@pytest.fixture
def mine(server: S3Server, model: str, tmp_path: Path) -> Registry:
    """A registry on that server. Production serves v1.0.0, and v1.1.0 is there."""
    return filled(open_registry(tmp_path, f"s3://{server.bucket}/mine", model))


@pytest.fixture
def registry(store_url: str, proxy: Proxy, model: str, tmp_path: Path) -> Registry:
    """The same behind a proxy of the shared server; `is_away` lets that answer nothing."""
    return filled(open_registry(tmp_path, store_url, model, endpoint_url=proxy.url))


@pytest.fixture
def shop(registry: Registry) -> Shop:
    return shop_of(registry)


def shop_of(registry: Registry) -> Shop:
    return Shop(registry.store, registry.model, registry.settings.cache.parent)


def filled(registry: Registry) -> Registry:
    registry.store.initialise()
    shop = shop_of(registry)
    shop.release("v1.0.0")
    shop.release("v1.1.0")
    shop.promote("v1.0.0")
    return registry


def is_away(proxy: Proxy) -> None:
    """From now on no request reaches the store, until `proxy.clear()`."""
    proxy.next(refuse, times=1_000_000)


def follow(registry: Registry, channel: str = "production", **options: Any) -> Live:
    options = {"poll": 0.02, "retry": 0.02, "read_seconds": 0.5, "find": find_echo, **options}
    return registry.follow(channel, LiveOptions(**options))


def place(registry: Registry, channel: str = "production") -> StatePlace:
    settings = registry.settings
    return StatePlace(settings.cache, settings.store, named_endpoint(settings.endpoint_url), settings.model, channel)


def keeps(registry: Registry, record: Record) -> bool:
    """Whether this machine keeps a record."""
    with suppress(BadManifest):
        state = read_state(place(registry))
        return state is not None and state.served().sha256 == record.sha256
    return False


def serve_once(registry: Registry) -> Any:
    """Follow until the state is kept; what it answers."""
    with follow(registry) as live:
        wait_until(lambda: keeps(registry, live.record))
        return live.predict(b"leaf")


def cached(registry: Registry, shop: Shop, name: str = "v1.0.0") -> Path:
    """Where the cache has the weights of a version."""
    digest = shop.file(name, WEIGHTS).sha256
    return registry.settings.cache / "blobs" / digest[:2] / digest


@pytest.mark.acceptance
def test_a_trial_goes_on_in_a_start_without_the_store(registry: Registry, shop: Shop, proxy: Proxy) -> None:
    start_trial(shop, "v1.1.0", percent=50)
    keys = [f"user-{number}" for number in range(20)]

    def versions_of(live: Live) -> dict[str, str]:
        return {key: live.predict(b"leaf", key=key).version for key in keys}

    with follow(registry) as live:
        wait_until(lambda: keeps(registry, live.record))
        before = versions_of(live)
    is_away(proxy)
    with follow(registry) as live:
        assert live.health().state == "stale"
        assert versions_of(live) == before
    assert set(before.values()) == {"v1.0.0", "v1.1.0"}


def test_it_starts_from_what_is_kept_and_catches_up(
    mine: Registry, server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    before = serve_once(mine)
    server.kill()
    with caplog.at_level(logging.WARNING), follow(mine) as live:
        assert live.predict(b"leaf") == before
        health = live.health()
        assert (health.state, health.ready, health.generation) == ("stale", True, 1)
        for said in (health.error, caplog.text):
            assert "the log can't be read since 20" in said
            assert f"started from the kept state {place(mine).path}, whose generation 1 was last confirmed" in said
        assert "production: stale, was starting" in caplog.text

        server.start()
        record = shop_of(mine).promote("v1.1.0")
        assert live.wait_for(version="v1.1.0", timeout=300)
        wait_until(lambda: live.health().state == "serving")
        wait_until(lambda: (live.health().error, live.health().note) == ("", ""))
        wait_until(lambda: keeps(mine, record))


@pytest.mark.acceptance
def test_two_replicas_share_what_a_machine_keeps(mine: Registry, server: S3Server) -> None:
    with follow(mine) as one, follow(mine) as other:
        record = shop_of(mine).promote("v1.1.0")
        for live in (one, other):
            assert live.wait_for(generation=record.generation, timeout=300)
        wait_until(lambda: keeps(mine, record))
    server.kill()
    with follow(mine) as one, follow(mine) as other:
        assert one.predict(b"leaf") == other.predict(b"leaf")
        assert one.record.sha256 == other.record.sha256 == record.sha256


def test_the_last_confirmation_is_kept_at_the_end(registry: Registry) -> None:
    with follow(registry) as live:
        wait_until(lambda: keeps(registry, live.record))
        first = read_state(place(registry))
        assert first
        later = first.confirmed + timedelta(seconds=0.2)
        wait_until(lambda: datetime.now(UTC) - timedelta(seconds=live.health().last_seen) > later)
        assert read_state(place(registry)) == first
    last = read_state(place(registry))
    assert last
    assert last.confirmed > first.confirmed


def test_a_damaged_state_stops_a_start_without_the_store_only(
    registry: Registry, shop: Shop, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    serve_once(registry)
    path = place(registry).path
    half = path.read_bytes()[:1000]
    path.unlink()
    path.write_bytes(half)
    is_away(proxy)
    with pytest.raises(StoreUnreachable, match=rf"does not answer.*; the kept state {path} is not valid JSON"):
        follow(registry, read_seconds=0.2).start()

    proxy.clear()
    with caplog.at_level(logging.WARNING), follow(registry) as live:
        assert live.health().state == "serving"
        assert f"the kept state {path} is not valid JSON" in caplog.text
        wait_until(lambda: keeps(registry, live.record))


def test_an_old_state_is_refused(registry: Registry, shop: Shop, proxy: Proxy) -> None:
    serve_once(registry)
    is_away(proxy)
    with pytest.raises(StoreUnreachable, match=r"more than the 0 s of --max-cache-age"):
        follow(registry, max_cache_age=0).start()


def test_the_state_of_another_channel_is_not_used(registry: Registry, shop: Shop, proxy: Proxy) -> None:
    serve_once(registry)
    shop.promote("v1.0.0", "staging")
    is_away(proxy)
    with pytest.raises(StoreUnreachable, match="this machine keeps no state to start from"):
        follow(registry, "staging").start()
    kept, other = place(registry), place(registry, "staging")
    other.path.write_bytes(kept.path.read_bytes())
    with pytest.raises(StoreUnreachable, match=f"is that of {registry.model} production"):
        follow(registry, "staging").start()


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_file_that_is_not_in_the_cache_is_named(registry: Registry, shop: Shop, proxy: Proxy, damage: str) -> None:
    serve_once(registry)
    path = cached(registry, shop)
    good = path.read_bytes()
    path.unlink()
    if damage == "damaged":
        path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    is_away(proxy)
    with pytest.raises(StoreUnreachable, match=rf"no whole copy of blob {path.name}.*does not answer.*{WEIGHTS}"):
        follow(registry).start()


@pytest.mark.acceptance
def test_the_backbone_comes_from_the_cache(registry: Registry, shop: Shop, proxy: Proxy, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    ref = BackboneRef(family="dinov3", sha256=canonical.sha256(b"weights"), name="team-vit")
    registry.wiring.backbone_mirror.add(LocalBackbone(ref, weights, 7), "a test")

    def load(manifest: Manifest, files: Any, *, fetch: FetchBlob, **how: Any) -> Echo:
        assert fetch(ref.sha256)
        assert fetch("0" * 64) is None
        return load_echo(manifest, files)

    with follow(registry, find=lambda flavor: load) as live:
        wait_until(lambda: keeps(registry, live.record))
    is_away(proxy)
    with follow(registry, find=lambda flavor: load) as live:
        assert live.health().state == "stale"
    (registry.settings.cache / "blobs" / ref.sha256[:2] / ref.sha256).unlink()
    with pytest.raises(StoreUnreachable, match=rf"no whole copy of blob {ref.sha256}.*does not answer.*safetensors"):
        follow(registry, find=lambda flavor: load).start()


@pytest.mark.acceptance
def test_only_trusted_versions_start_without_the_store(
    registry: Registry, shop: Shop, proxy: Proxy, tmp_path: Path
) -> None:
    ours, theirs = key_pair(tmp_path, "ours"), key_pair(tmp_path, "theirs")
    registry.sign("v1.0.0", ours.private)

    def trusting(key: Pair, minimum: str | None = None) -> Registry:
        return Registry(settings=replace(registry.settings, trusted_keys=(key.trusted,), minimum_version=minimum))

    before = serve_once(trusting(ours))
    is_away(proxy)
    with follow(trusting(ours)) as live:
        assert live.predict(b"leaf") == before
    with pytest.raises(NotTrusted, match=r"v1\.0\.0 is not trusted"):
        follow(trusting(theirs)).start()
    with pytest.raises(NotTrusted, match=r"v1\.0\.0 is older than v1\.1\.0"):
        follow(trusting(ours, "v1.1.0")).start()


@pytest.mark.acceptance
def test_a_composed_version_starts_without_the_store(
    registry: Registry, shop: Shop, proxy: Proxy, tmp_path: Path
) -> None:
    """It is trusted because of the versions that it is composed of, whose signatures are kept too."""
    key = key_pair(tmp_path, "ours")
    for name in ("v1.0.0", "v1.1.0"):
        registry.sign(name, key.private)
    shop.promote("v1.1.0")
    careful = Registry(settings=replace(registry.settings, trusted_keys=(key.trusted,)))
    careful.rollback(only=["adapters/low"], reason="a test")
    before = serve_once(careful)
    is_away(proxy)
    with follow(careful) as live:
        assert live.predict(b"leaf") == before
        assert before.version not in ("v1.0.0", "v1.1.0")


def test_a_log_that_contradicts_what_is_kept_is_not_followed(registry: Registry, shop: Shop, proxy: Proxy) -> None:
    shop.promote("v1.1.0")
    serve_once(registry)
    shop.store.delete(layout.record(shop.model, "production", 2))
    shop.release("v1.2.0")
    shop.promote("v1.2.0")
    is_away(proxy)
    with follow(registry) as live:
        proxy.clear()
        wait_until(lambda: "regressed" in live.health().error)
        assert (live.version, live.health().state) == ("v1.1.0", "stale")
        assert "started from the kept state" in live.health().error
    state = read_state(place(registry))
    assert state
    assert state.served().live() == ("v1.1.0",)


@pytest.mark.acceptance
def test_a_cache_that_may_not_be_written_still_starts(mine: Registry, server: S3Server) -> None:
    with TemporaryDirectory() as name:
        cache = Path(name)
        cache.chmod(0o755)
        mine = Registry(settings=replace(mine.settings, cache=cache))
        before = serve_once(mine)
        with no_right_to_write(cache), follow(mine) as live:
            wait_until(lambda: live.health().note.startswith(f"no state is kept in {place(mine).path}: Permission"))
            assert live.predict(b"leaf") == before
        server.kill()
        with no_right_to_write(cache), follow(mine) as live:
            assert live.predict(b"leaf") == before


def test_a_store_that_refuses_has_answered(registry: Registry, proxy: Proxy) -> None:
    serve_once(registry)
    proxy.next(answering(403, "AccessDenied"), times=1000)
    with pytest.raises(StoreDenied):
        follow(registry, read_seconds=30).start()


@pytest.mark.acceptance
def test_a_store_that_hangs_does_not_answer(registry: Registry, proxy: Proxy) -> None:
    before = serve_once(registry)
    stall = Stall()
    proxy.next(stall, times=1000)
    with follow(registry) as live:
        assert (live.predict(b"leaf"), live.health().state) == (before, "stale")
        assert "the log can't be read since" in live.health().error
        proxy.clear()
        stall.release()
        wait_until(lambda: live.health().state == "serving")


@pytest.mark.acceptance
def test_without_a_limit_a_replica_stays_ready(registry: Registry, shop: Shop, proxy: Proxy) -> None:
    serve_once(registry)
    is_away(proxy)
    with follow(registry, stale_after=0, max_staleness=0) as live:
        assert (live.health().state, live.health().ready) == ("not ready", False)
        assert live.predict(b"leaf").version == "v1.0.0"
    with follow(registry, stale_after=0) as live:
        assert (live.health().state, live.health().ready) == ("stale", True)


def test_a_state_with_another_manifest_is_refused(registry: Registry, shop: Shop, proxy: Proxy) -> None:
    serve_once(registry)
    state = read_state(place(registry))
    assert state
    record = state.served()
    assert record.stable
    key = layout.blob(record.stable.manifest_sha256)
    other = shop.versions.manifest(shop.pointer("v1.1.0")).to_bytes()
    documents = {**state.contents(), key: other}
    write_state(place(registry), KeptState.make(place(registry), record, documents, state.confirmed))
    is_away(proxy)
    with pytest.raises(CorruptBlob, match=r"the manifest of v1\.0\.0: corrupt: SHA-256 mismatch"):
        follow(registry).start()


@pytest.mark.acceptance
def test_ulora_serve_starts_without_the_store(mine: Registry, server: S3Server, tmp_path: Path) -> None:
    shop_of(mine).release("v2.0.0", flavor=FLAVOR)
    shop_of(mine).promote("v2.0.0")
    settings = mine.settings
    environment = {"ULORA_MODEL": mine.model, "ULORA_STORE": settings.store, "ULORA_CACHE": str(settings.cache)}

    def started(folder: str) -> Any:
        return serving(tmp_path / folder, environment, "--max-cache-age", "1h", "--deadline", "600")

    with started("first") as process:
        assert process.stdout
        assert process.stdout.readline().startswith("v2.0.0 at ")
        wait_until(lambda: read_state(place(mine)))
    server.kill()
    with started("second") as process:
        assert process.stdout
        url = process.stdout.readline().strip().rpartition(" ")[2]
        health = httpx.get(f"{url}/health", timeout=300)
        assert (health.status_code, health.json()["state"], health.json()["version"]) == (200, "stale", "v2.0.0")
        assert httpx.post(f"{url}/predict", files={"image": b"leaf"}, timeout=300).json()["version"] == "v2.0.0"
        server.start()
        wait_until(lambda: httpx.get(f"{url}/health", timeout=300).json()["state"] == "serving")


def test_a_store_that_stops_to_answer_during_a_start(
    registry: Registry, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    serve_once(registry)
    proxy.next(answering(503), containing="/blobs/", times=1_000_000)  # it has named the version before
    with follow(registry) as live:
        assert (live.version, live.health().state) == ("v1.0.0", "serving")
    assert "v1.0.0 is loaded from what this machine keeps" in caplog.text


def test_a_version_that_is_not_kept_is_not_taken_for_another(registry: Registry, shop: Shop, proxy: Proxy) -> None:
    serve_once(registry)
    shop.promote("v1.1.0")
    proxy.next(answering(503), containing="/blobs/", times=1_000_000)
    with pytest.raises(StoreUnreachable), follow(registry):
        pass

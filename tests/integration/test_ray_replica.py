"""The replica that an actor of Ray Serve holds, on a real store, in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from registry.errors import ChannelEmpty, ReplicaClosed
from registry.serving.fleet import Heartbeats, replicas
from registry.serving.follow import Live, LiveOptions
from registry.serving.http.options import HttpOptions
from registry.serving.ray.replica import RayReplica
from registry.store.objects import ObjectStore
from tests.servers.proxy import Proxy, unavailable
from tests.support.batch_flavor import Controls, together
from tests.support.echo_releases import Shop, find_echo, wait_until


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    """A model whose production serves v1.0.0."""
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    return shop


@contextmanager
def held(shop: Shop, http: HttpOptions | None = None, **options: Any) -> Iterator[tuple[RayReplica, Live]]:
    """A replica as Ray makes and ends it."""
    fleet = Heartbeats(shop.store, shop.model, "production")
    live = Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(**{"find": find_echo, **options}), fleet=fleet)
    replica = RayReplica(lambda: live, http or HttpOptions(), 128)
    try:
        yield replica, live
    finally:
        replica.__del__()


def is_healthy(replica: RayReplica) -> bool:
    try:
        asyncio.run(replica.check_health())
    except ReplicaClosed:
        return False
    return True


def test_a_replica_says_goodbye_when_ray_ends_it(shop: Shop) -> None:
    with held(shop) as (replica, live):
        wait_until(lambda: replicas(shop.store, shop.model, "production"))
        assert is_healthy(replica)
    assert replicas(shop.store, shop.model, "production") == []
    assert live.health().state == "closed"


def test_an_outage_of_the_store_is_no_reason_to_restart(shop: Shop, store_url: str, proxy: Proxy) -> None:
    far = Shop(ObjectStore(store_url, endpoint_url=proxy.url), shop.model, shop.folder)
    with held(far, poll=0.02, max_staleness=0.1, stale_after=0.05, read_seconds=0.2) as (replica, live):
        proxy.next(unavailable, times=1_000_000)
        wait_until(lambda: live.health().state == "not ready")
        assert is_healthy(replica)


def test_a_batch_that_hangs_is_one(shop: Shop) -> None:
    controls = Controls()

    def find(flavor: str) -> Any:
        return lambda manifest, files, **how: together(controls, manifest.version)

    with held(shop, HttpOptions(compute_limit=0.1), find=find) as (replica, live):
        assert is_healthy(replica)
        controls.computing.clear()
        asking = threading.Thread(target=lambda: live.predict(b"leaf"))
        asking.start()
        wait_until(lambda: not is_healthy(replica))
        controls.computing.set()
        asking.join()
        wait_until(lambda: is_healthy(replica))


def test_a_channel_that_serves_nothing_ends_the_start(shop: Shop) -> None:
    live = Live(shop.channel("staging"), shop.versions, shop.blobs, LiveOptions(find=find_echo))
    with pytest.raises(ChannelEmpty):
        RayReplica(lambda: live, HttpOptions(), 128)
    assert live.health().state == "closed"

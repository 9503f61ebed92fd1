"""Faults beside a replica while it serves over HTTP: its cache and its store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from registry.devstack.s3_server import S3Server
from registry.serving.follow import Live, LiveOptions
from registry.store.objects import ObjectStore
from tests.servers.proxy import Exchange, Proxy
from tests.support.echo_releases import Shop, find_echo, wait_until
from tests.support.running_app import running
from tests.support.unwritable_folder import no_right_to_write

OPTIONS = LiveOptions(find=find_echo, poll=0.02, retry=0.05, deadline=600)


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
        shop.promote(name)
    return shop


@pytest.fixture
def live(shop: Shop) -> Iterator[Live]:
    with Live(shop.channel(), shop.versions, shop.blobs, OPTIONS) as live:
        wait_until(lambda: live.health().rollback_ready)
        yield live


def version_of(http: httpx.Client) -> str:
    answer = http.post("/predict", files={"image": b"leaf"})
    assert answer.status_code == 200
    return str(answer.json()["version"])


def delete(cache: Path, stack: ExitStack) -> None:
    shutil.rmtree(cache)


def corrupt(cache: Path, stack: ExitStack) -> None:
    for path in cache.rglob("*"):
        if path.is_file() and path.stat().st_size:
            damaged = path.with_name("damaged")
            damaged.write_bytes(b"\0" * path.stat().st_size)
            damaged.replace(path)


def forbid(cache: Path, stack: ExitStack) -> None:
    stack.enter_context(no_right_to_write(cache))


def replace_by_a_file(cache: Path, stack: ExitStack) -> None:
    shutil.rmtree(cache)
    cache.write_text("no folder")


@pytest.mark.acceptance
@pytest.mark.parametrize("damage", [delete, corrupt, forbid, replace_by_a_file])
def test_a_cache_that_breaks_costs_no_answer(shop: Shop, live: Live, damage: Callable[[Path, ExitStack], None]) -> None:
    shop.release("v2.0.0")
    with ExitStack() as stack, running(live) as http:
        damage(shop.folder / "cache", stack)
        assert version_of(http) == "v1.1.0"
        record = shop.rollback()
        assert live.wait_for(generation=record.generation, timeout=300)
        assert version_of(http) == "v1.0.0"
        shop.promote("v2.0.0")  # loaded without what the cache was
        assert live.wait_for(version="v2.0.0", timeout=300)
        assert version_of(http) == "v2.0.0"


@pytest.mark.acceptance
def test_a_store_that_is_killed_while_it_loads_costs_no_answer(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = S3Server(tmp_path / "s3").start()
    try:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        url = f"s3://{server.bucket}/store"
        shop = Shop(ObjectStore(url), model, tmp_path)
        shop.release("v1.0.0")
        shop.promote("v1.0.0")
        shop.release("v1.1.0")

        def die(exchange: Exchange) -> None:
            server.kill()
            exchange.reset()

        with Proxy(server.port) as proxy:
            behind = Shop(ObjectStore(url, endpoint_url=proxy.url), model, tmp_path / "other")
            with Live(behind.channel(), behind.versions, behind.blobs, OPTIONS) as live, running(live) as http:
                proxy.next(die, containing="/blobs/")
                shop.promote("v1.1.0")
                wait_until(lambda: not server.running and "v1.1.0 was not loaded" in live.health().error)
                assert version_of(http) == "v1.0.0"
                server.start()
                assert live.wait_for(version="v1.1.0", timeout=300)
                assert version_of(http) == "v1.1.0"
    finally:
        server.kill()

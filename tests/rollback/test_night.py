"""Commands of the worst night: servers that drip, listings that lag, broken settings, output that nobody reads."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from registry import wiring
from registry.api import Registry
from registry.channels.channel import Channel, PromoteOptions, RollbackOptions
from registry.channels.record import Author
from registry.errors import BadInput, ChannelMoved
from registry.store import client, layout
from registry.store.client import Deadlines
from registry.store.objects import ObjectStore
from tests.servers.proxy import Exchange, Fault, Proxy, Reply, drip_body, drip_headers
from tests.support.broken_aws import BROKEN, apply
from tests.support.echo_releases import wait_until
from tests.support.full_pipe import full_pipe
from tests.support.registries import bind, open_registry
from tests.support.run_ulora import complains, ulora

HASTY = Deadlines(call=1, attempt=0.5, write=1.5, stall=1)
ME = Author("me")


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Production serves v2.0.0 after v1.0.0."""
    monkeypatch.setenv("ULORA_MODEL", model)
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    bind(registry, "v1.0.0", "v2.0.0", "v3.0.0")
    for version in ("v1.0.0", "v2.0.0"):
        registry.promote(version, "production", PromoteOptions(force=True), reason="so")
    return registry


def serves(registry: Registry) -> str:
    head = registry.channel("production").head()
    assert head
    assert head.stable
    return head.stable.version


@pytest.mark.acceptance
@pytest.mark.parametrize("fault", [drip_headers, drip_body], ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("words", ["status", "history", "rollback --wait 0"])
def test_a_command_ends_though_the_server_drips(
    registry: Registry, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, fault: Fault, words: str
) -> None:
    monkeypatch.setattr(wiring, "ObjectStore", partial(ObjectStore, deadlines=HASTY))
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    proxy.next(fault, times=1000)
    complains(ulora(*words.split()), 7, "does not answer")


def test_a_rollback_whose_record_is_there_says_so(
    registry: Registry, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "ObjectStore", partial(ObjectStore, deadlines=HASTY))
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    newest = "0999999999997.json"
    proxy.next(drip_headers, containing=newest, times=1000)
    complains(ulora("rollback", "--wait", 0), 7, "did not say whether it was applied", "`ulora status`")
    assert serves(registry) == "v1.0.0"


def stale(proxy: Proxy, registry: Registry, name: str = "production") -> Fault:
    """A fault that answers with the listing of a channel of now, for ever."""
    kept: list[Reply] = []

    def answer(exchange: Exchange) -> None:
        if not kept:
            kept.append(exchange.forward())
        exchange.send(kept[0])

    log = Channel(ObjectStore(registry.settings.store, endpoint_url=proxy.url), registry.model, name)
    proxy.next(answer, method="GET", containing=f"channels%2F{name}%2F", times=1000)
    log.head()
    return answer


def test_a_stale_listing_stops_no_rollback(registry: Registry, proxy: Proxy) -> None:
    stale(proxy, registry)
    registry.promote("v3.0.0", "production", PromoteOptions(force=True), reason="so")
    registry.promote("v2.0.0", "production", PromoteOptions(force=True), reason="so")
    behind = Channel(ObjectStore(registry.settings.store, endpoint_url=proxy.url), registry.model, "production")
    with pytest.raises(ChannelMoved, match="listing is out of date: it still ends at generation 2"):
        behind.rollback(ME, RollbackOptions())
    behind = Channel(ObjectStore(registry.settings.store, endpoint_url=proxy.url), registry.model, "production")
    assert behind.rollback(ME, RollbackOptions(to="v1.0.0")).record.generation == 5
    assert serves(registry) == "v1.0.0"


def test_a_promotion_on_a_stale_listing_says_so(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    stale(proxy, registry)
    registry.rollback()
    far = open_registry(tmp_path / "far", registry.settings.store, registry.model, endpoint_url=proxy.url)
    with pytest.raises(ChannelMoved, match="listing is out of date"):
        far.promote("v3.0.0", "production", PromoteOptions(force=True), reason="so")


@pytest.mark.parametrize("options", [{"leave": "v3.0.0"}, {"to": "v1.0.0"}, {"expected": 4}], ids=str)
def test_a_stale_listing_never_says_it_is_done(registry: Registry, proxy: Proxy, options: dict[str, Any]) -> None:
    registry.rollback()
    stale(proxy, registry)
    registry.promote("v3.0.0", "production", PromoteOptions(force=True), reason="so")
    behind = Channel(ObjectStore(registry.settings.store, endpoint_url=proxy.url), registry.model, "production")
    assert behind.rollback(ME, RollbackOptions(**options)).changed
    assert serves(registry) == "v1.0.0"


@pytest.mark.acceptance
@pytest.mark.parametrize("listed", [0, 1])
@pytest.mark.parametrize("options", [{}, {"to": "v1.0.0"}, {"leave": "v2.0.0"}], ids=str)
def test_a_stale_listing_never_says_there_is_nothing(
    registry: Registry, proxy: Proxy, listed: int, options: dict[str, Any]
) -> None:
    versions = ["v1.0.0", "v2.0.0"]
    for number, version in enumerate(versions):
        if number == listed:
            stale(proxy, registry, "staging")
        registry.promote(version, "staging", PromoteOptions(force=True), reason="so")
    behind = Channel(ObjectStore(registry.settings.store, endpoint_url=proxy.url), registry.model, "staging")
    assert behind.rollback(ME, RollbackOptions(**options)).record.generation == 3


def test_parts_go_back_though_the_listing_is_stale(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    registry.promote("v1.0.0", "staging", PromoteOptions(force=True), reason="so")
    stale(proxy, registry, "staging")
    registry.promote("v2.0.0", "staging", PromoteOptions(force=True), reason="so")
    far = open_registry(tmp_path / "far", registry.settings.store, registry.model, endpoint_url=proxy.url)
    with pytest.raises(BadInput, match="has no component"):  # so it found the version to go back to
        far.rollback("staging", only=["adapters/tomato"])


def test_a_stale_listing_never_says_it_is_promoted(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    stale(proxy, registry)
    registry.rollback()
    far = open_registry(tmp_path / "far", registry.settings.store, registry.model, endpoint_url=proxy.url)
    with pytest.raises(ChannelMoved, match="listing is out of date"):
        far.promote("v2.0.0", "production", PromoteOptions(force=True), reason="so")


def test_an_object_that_stands_for_a_folder_is_left_out(registry: Registry) -> None:
    registry.store.overwrite(layout.channel(registry.model, "production"), b"")
    assert registry.rollback().version == "v1.0.0"
    assert [record.generation for record in registry.history()] == [3, 2, 1]
    assert serves(registry) == "v1.0.0"


@pytest.mark.acceptance
def test_broken_settings_of_aws_are_one_line(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, (config, variables, says) in BROKEN.items():
        with monkeypatch.context() as broken:
            apply(broken, tmp_path, config, variables)
            broken.setattr(client, "_OPENING_SECONDS", 1.0 if "hangs" in name else 60.0)
            ended = ulora("rollback")
        assert ended.code in (2, 7), (name, ended)
        complains(ended, ended.code, says, "hint: ")
    assert serves(registry) == "v2.0.0"


@pytest.mark.acceptance
@pytest.mark.parametrize("redirection", ["> /dev/full", "2> /dev/full", ">&-", ">&- 2>&- <&-", "| true"])
def test_what_becomes_of_the_output_of_a_command(registry: Registry, redirection: str) -> None:
    words = "rollback --reason 'größer…' --wait 0 --json"
    line = f"set -o pipefail; PYTHONIOENCODING=ascii {sys.executable} -m registry {words} {redirection}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, serves(registry)) == (0, "v1.0.0"), done
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_rollback_waits_for_no_reader_of_its_output(registry: Registry) -> None:
    command = [sys.executable, "-m", "registry", "rollback", "--reason", "so", "--wait", "0"]
    with full_pipe() as (_, writes), subprocess.Popen(command, stdout=writes, stderr=writes) as process:
        try:
            wait_until(lambda: serves(registry) == "v1.0.0")
        finally:
            process.kill()

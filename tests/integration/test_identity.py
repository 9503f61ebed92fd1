"""Who acts: learnt from STS by commands that have the time, kept, claimed in records; a rollback never asks.

The S3 server here answers STS too, and so does a proxy before it that counts.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.api import Registry
from registry.devstack.s3_server import S3Server
from registry.machine import identity
from registry.settings import Settings
from tests.servers.proxy import Proxy
from tests.support.registries import bind, write_policy
from tests.support.run_ulora import ulora


@pytest.fixture
def registry(
    store_url: str, s3: S3Server, model: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """Settings as the environment gives them: S3 directly, STS through the proxy; two versions promoted."""
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ULORA_POLICY", str(write_policy(tmp_path)))
    registry = Registry()
    registry.store.initialise()
    bind(registry, "v1.0.0", "v1.1.0")
    for version in ("v1.0.0", "v1.1.0"):
        registry.promote(version, "production")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", proxy.url)
    return registry


def test_a_rollback_asks_nobody_but_the_store(registry: Registry, proxy: Proxy) -> None:
    done = ulora("rollback", "--reason", "test", "--wait", "0")
    assert (done.code, proxy.requests) == (0, [])
    assert ulora("rollback", "--again", "--dry-run").code == 5
    assert proxy.requests == []


def test_the_caller_is_asked_once_kept_and_claimed_later(registry: Registry, proxy: Proxy) -> None:
    for _ in range(2):
        assert ulora("promote", "v1.0.0", "--force", "--reason", "back").code == 0
    assert len(proxy.requests) == 1
    asked = len(proxy.requests)

    assert ulora("rollback", "--reason", "test", "--wait", "0").code == 0
    head = Registry().history("production")[0]
    assert head.who.startswith("arn:aws:iam::")
    assert head.who_verified is False
    assert len(proxy.requests) == asked


def test_history_and_status_say_that_nothing_proves_it(registry: Registry) -> None:
    assert f"{registry.settings.who} (unverified)" in ulora("history").out
    assert f"{registry.settings.who} (unverified)" in ulora("status").out
    assert ulora("history", "--json").document[0]["who_verified"] is False
    assert ulora("status", "--json").document["channels"][1]["who_verified"] is False


def test_store_init_asks_who_acts(registry: Registry, proxy: Proxy) -> None:
    assert ulora("store", "init").code == 0
    assert len(proxy.requests) == 1
    assert Settings.load().who.startswith("arn:aws:iam::")


def test_other_servers_than_aws_are_not_asked(
    registry: Registry, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_STS")
    assert registry.store.caller() is None
    assert Settings.load().who == registry.settings.who


def test_an_sts_without_answer_is_not_asked_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, dead_address: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", dead_address)
    assert identity.is_due(registry.settings.cache, None)
    registry.wiring.note_caller()
    assert not identity.is_due(registry.settings.cache, None)
    assert "@" in Settings.load().who


def test_what_the_environment_says_goes_before_what_is_kept(
    registry: Registry, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.wiring.note_caller()
    monkeypatch.setenv("ULORA_WHO", "the night shift")
    assert Settings.load().who == "the night shift"
    proxy.clear()
    registry.wiring.note_caller()
    assert proxy.requests == []


def test_other_credentials_have_their_own_answer(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, s3: S3Server
) -> None:
    registry.wiring.note_caller()
    kept = [path for path in registry.settings.cache.rglob("identities/*") if path.is_file()]
    assert sorted(json.loads(path.read_bytes()).keys() for path in kept)
    assert all(s3.access_key not in path.name and s3.access_key.encode() not in path.read_bytes() for path in kept)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert "@" in Settings.load().who

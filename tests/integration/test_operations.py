"""The operations log: what commands note of how they ended, on a real store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.api import Registry
from registry.integrity.operations import Operation
from registry.retention.old_operations import KEPT_FOR
from registry.store import layout
from tests.servers import proxy as faults
from tests.servers.proxy import Proxy
from tests.support.registries import bind, open_registry, small_bundle, write_policy
from tests.support.run_ulora import complains, ulora


@pytest.fixture
def registry(tmp_path: Path, store_url: str, model: str, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An initialised store with two versions, and the same settings in the environment."""
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("ULORA_WHO", "mert@laptop")
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ULORA_POLICY", str(write_policy(tmp_path)))
    opened = open_registry(tmp_path, store_url, model)
    assert ulora("store", "init").code == 0
    bind(opened, "v1.0.0", "v1.1.0")
    return opened


def test_commands_note_how_they_ended(registry: Registry) -> None:
    assert ulora("promote", "v1.0.0", "-c", "production").code == 0
    complains(ulora("rollback", "--no-mirror"), 5)
    assert ulora("verify", "v1.0.0", "v1.1.0").code == 0
    noted = registry.operations()
    assert [(one.command, one.version, one.channel, one.exit_code, one.error) for one in noted] == [
        ("promote", "v1.0.0", "production", 0, ""),
        ("rollback", "", "production", 5, "NothingToRollBackTo"),
        ("verify", "v1.0.0 v1.1.0", "", 0, ""),
    ]
    assert {one.who for one in noted} == {"mert@laptop"}
    assert all(one.seconds > 0 for one in noted)


def test_what_only_asks_notes_nothing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ulora("promote", "v1.0.0", "--dry-run").code == 0
    assert ulora("list").code == 0
    complains(ulora("promote", "no version"), 2)
    monkeypatch.setenv("ULORA_OPERATIONS_LOG", "off")
    assert ulora("verify", "v1.0.0").code == 0
    monkeypatch.setenv("ULORA_OPERATIONS_LOG", "perhaps")
    complains(ulora("verify", "v1.0.0"), 2, "operations_log is 'perhaps'")
    assert registry.operations() == []


def test_what_leaves_no_trace_leaves_no_note(registry: Registry, tmp_path: Path) -> None:
    other = small_bundle(tmp_path / "other")
    complains(ulora("create", "v1.0.0", "--from", other, "--offline"), 4, "v1.0.0 exists with other content")
    complains(ulora("rollback", "--no-mirror", "--model", "mistyped"), 5)
    complains(ulora("store", "gc", "--model", "mistyped"), 5, "has no model")
    assert registry.operations() == []
    assert "mistyped" not in set(registry.store.folders("models/"))


def test_a_create_that_mlflow_lacks_is_noted(registry: Registry, tmp_path: Path, mlflow_proxy: Proxy) -> None:
    mlflow_proxy.next(faults.refuse, containing="/model-versions/create", times=99)
    created = ulora("create", "v2.0.0", "--from", small_bundle(tmp_path / "more"), "--tracking-uri", mlflow_proxy.url)
    complains(created, 8)
    assert [(one.command, one.version, one.exit_code) for one in registry.operations()] == [("create", "v2.0.0", 8)]


def test_an_unreadable_note_is_left_out_and_verify_names_it(registry: Registry) -> None:
    assert ulora("verify", "v1.0.0").code == 0
    (good,) = registry.operations()
    damaged = layout.operation(registry.model, good.started[:10], "e" * 64)
    registry.store.create(damaged, b"{}")
    assert registry.operations() == [good]
    documents = registry.verify_all().documents
    assert documents
    assert list(documents.bad) == [damaged]


def test_operations_of_long_ago_are_left_out_and_deleted(registry: Registry) -> None:
    now = datetime.now(UTC)
    old, young = (
        Operation(format=1, model=registry.model, command="verify", started=when.isoformat(), seconds=1, exit_code=0)
        for when in (now - KEPT_FOR - timedelta(days=2), now - timedelta(days=1))
    )
    for each in (old, young):
        registry.wiring.operations.add(each)
    assert [one.when for one in registry.operations()] == [old.when, young.when]
    assert [one.when for one in registry.operations(now - timedelta(days=2))] == [young.when]
    assert registry.collect_garbage(dry_run=True).old_operations == 1
    assert registry.collect_garbage().old_operations == 1
    assert [one.when for one in registry.operations()] == [young.when]

"""`reconcile` again and again: what was moved by hand is moved back, and nothing is taken for a request of a person."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry.api import Registry
from registry.catalog.watch import LoopControl, reconcile_repeatedly
from registry.store import layout
from tests.servers import proxy as faults
from tests.servers.proxy import Proxy
from tests.support.echo_releases import wait_until
from tests.support.mlflow_versions import client
from tests.support.promotion_requests import (
    NUMBERS,
    V1,
    V2,
    V3,
    aliases,
    answer,
    ask,
    generations,
    notices,
    with_three_versions,
)


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, tracking_uri: str) -> Registry:
    return with_three_versions(tmp_path, store_url, model, tracking_uri)


@pytest.mark.acceptance
def test_an_alias_moved_by_hand_is_moved_back_with_a_hint(registry: Registry) -> None:
    registry.reconcile()
    client(registry).set_registered_model_alias(registry.model, "production", "2")
    done = registry.reconcile()
    assert "by hand" in done.changes[0]
    assert aliases(registry) == {"production": 1}
    assert "request-production" in notices(registry, V2)["Alias production was set by hand"]
    assert generations(registry) == [V1]
    ask(registry, V2)
    registry.reconcile()
    assert "Alias production was set by hand" not in notices(registry, V2)


@pytest.mark.acceptance
def test_a_late_mirror_is_not_a_manual_change_or_a_request(registry: Registry, dead_address: str) -> None:
    registry.reconcile()
    offline = Registry(settings=replace(registry.settings, tracking_uri=dead_address))
    for version in (V2, V3, V2):
        offline.promote(version, "production")
    before = registry.history()
    done = registry.reconcile()
    assert registry.history() == before
    assert done.requests == ()
    assert any("alias production: 1 -> 2" in change for change in done.changes)
    assert not any("by hand" in " ".join(notices(registry, version)) for version in NUMBERS)


@pytest.mark.acceptance
def test_a_junk_end_of_a_log_stops_nothing_else(registry: Registry) -> None:
    registry.promote(V2, "staging")
    registry.reconcile()
    registry.store.overwrite(layout.record(registry.model, "production", 2), b"junk")
    registry.promote(V3, "staging")
    ask(registry, V2)
    done = registry.reconcile()
    assert [line.partition(":")[0] for line in done.damaged] == ["production"]
    assert aliases(registry) == {"production": 1, "staging": 3}
    assert client(registry).get_model_version(registry.model, "1").current_stage == "Production"
    assert answer(registry, V2).startswith("refused")


def watching(registry: Registry, control: LoopControl, say: Callable[[str], None]) -> threading.Thread:
    thread = threading.Thread(
        target=reconcile_repeatedly,
        args=(
            registry.reconciler(), control,
            lambda done: say(f"done {done.changes} {done.requests}"), lambda error, pause: say(f"failed {error}"),
        ),
    )  # fmt: skip
    thread.start()
    return thread


@pytest.mark.acceptance
def test_a_watch_survives_an_outage_without_false_requests(registry: Registry, mlflow_proxy: Proxy) -> None:
    registry.reconcile()
    through = Registry(settings=replace(registry.settings, tracking_uri=mlflow_proxy.url))
    mlflow_proxy.next(faults.refuse, times=10**6)
    for version in (V2, V3, V2):
        registry_without = Registry(settings=replace(registry.settings, tracking_uri=None))
        registry_without.promote(version, "production")
    before = registry.history()
    control, said = LoopControl(every=0.05), []
    thread = watching(through, control, said.append)
    try:
        wait_until(lambda: any(line.startswith("failed") for line in said))
        assert aliases(registry) == {"production": 1}
        mlflow_proxy.clear()
        control.wake.set()
        wait_until(lambda: aliases(registry) == {"production": 2})
        assert registry.history() == before
        ask(registry, V3)
        wait_until(lambda: answer(registry, V3).startswith("promoted"))
    finally:
        control.end()
        thread.join(300)
    assert generations(registry) == [V1, V2, V3, V2, V3]


@pytest.mark.acceptance
def test_the_first_round_shows_the_pages_of_new_versions_too(registry: Registry) -> None:
    registry.reconcile()
    away = Registry(settings=replace(registry.settings, tracking_uri=None))
    for version in (V2, V3, V2):
        away.promote(version, "production")
    control = LoopControl()

    watching(registry, control, lambda _: control.end()).join(300)

    assert registry.reconcile(dry_run=True).changes == ()


@pytest.mark.acceptance
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_watches_until_it_is_told_to_stop(registry: Registry, number: signal.Signals) -> None:
    settings = registry.settings
    assert settings.store
    assert settings.tracking_uri
    given = {"STORE": settings.store, "POLICY": settings.policy, "CACHE": settings.cache, "MODEL": registry.model}
    environment = {**os.environ, **{f"ULORA_{name}": str(value) for name, value in given.items()}}
    command = [sys.executable, "-m", "registry", "reconcile", "--watch", "--every", "0.2", "--json"]
    ask(registry, V2)
    with subprocess.Popen(
        [*command, "--tracking-uri", settings.tracking_uri],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as watching:  # fmt: skip
        try:
            wait_until(lambda: answer(registry, V2).startswith("promoted") or watching.poll() is not None)
            watching.send_signal(number)
            out, err = watching.communicate(timeout=300)
        finally:
            watching.kill()
    assert watching.returncode == 0, err
    first, second = (json.loads(line) for line in out.splitlines()[:2])
    assert first == {"watching": registry.model}
    assert second["reconciled"].startswith(f"request of {V2} for production: promoted")

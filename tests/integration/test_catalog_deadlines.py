"""An MLflow whose answers never end holds no command, no thread and no lock: each conversation has a total time."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from registry.catalog import client as client_module
from registry.catalog import reconciler as reconciler_module
from registry.catalog.client import Catalog
from registry.catalog.connection import PATIENT, Limits
from registry.catalog.mirror import mirror, preview
from registry.catalog.requests import pending
from registry.errors import CatalogUnreachable
from registry.parallel import within
from tests.servers import proxy as faults
from tests.servers.proxy import Proxy
from tests.support.echo_releases import wait_until
from tests.support.registries import bind, open_registry, small_bundle

STORE = "s3://bucket/prefix"
SHORT = Limits(timeout=20, retries=2, turn=60, total=0.5)
ENOUGH = 300
"""Seconds after which a test fails instead of hanging."""


def wait_until_ended(others: set[threading.Thread]) -> None:
    """Wait until the calls that were given up have ended, but for those of earlier tests."""
    names = ("ulora-mlflow", "ulora-end")
    wait_until(lambda: all(one.name not in names for one in set(threading.enumerate()) - others))


def _download(catalog: Catalog) -> object:
    with TemporaryDirectory() as folder:
        return catalog.download("models:/m/1", Path(folder) / "model")


METHODS: dict[str, Callable[[Catalog], object]] = {
    "versions": lambda catalog: catalog.versions("m"),
    "mirror": lambda catalog: mirror(catalog, "m", list),
    "preview": lambda catalog: preview(catalog, "m", []),
    "requests": lambda catalog: pending(catalog, "m"),
    "download": _download,
}


def fails_in_time(act: Callable[[], object]) -> str:
    """The error of what must not hang."""
    with pytest.raises(CatalogUnreachable) as down:
        within(ENOUGH, act)
    return str(down.value)


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_that_never_ends_is_given_up(mlflow_proxy: Proxy, method: str) -> None:
    before, others = dict(os.environ), set(threading.enumerate())
    mlflow_proxy.next(faults.drip, times=10**6)
    said = fails_in_time(lambda: METHODS[method](Catalog(mlflow_proxy.url, STORE, limits=SHORT)))
    assert "does not answer: timed out" in said
    assert dict(os.environ) == before
    wait_until_ended(others)
    mlflow_proxy.clear()
    Catalog(mlflow_proxy.url, STORE, limits=replace(PATIENT, turn=0)).versions("m")


def test_a_retry_in_an_hour_is_not_waited_for(mlflow_proxy: Proxy) -> None:
    later = faults.Reply(503, [("Retry-After", "3600")], b"")
    mlflow_proxy.next(lambda exchange: exchange.send(later), times=10**6)
    assert "timed out" in fails_in_time(lambda: Catalog(mlflow_proxy.url, STORE, limits=SHORT).versions("m"))


def test_a_locked_database_is_unreachable(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with sqlite3.connect(database, isolation_level=None) as locking:
        locking.execute("BEGIN EXCLUSIVE")
        catalog = Catalog(f"sqlite:///{database}", STORE, limits=SHORT)
        assert f"sqlite:///{database} does not answer" in fails_in_time(lambda: catalog.versions("m"))


def test_commands_go_on_without_a_catalog_that_drips(
    store_url: str, model: str, tmp_path: Path, mlflow_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = open_registry(tmp_path, store_url, model, tracking_uri=mlflow_proxy.url)
    registry.store.initialise()
    bind(registry, "v1.0.0")
    for limits in ("PING", "HASTY"):
        monkeypatch.setattr(client_module, limits, SHORT)
    mlflow_proxy.next(faults.drip, times=10**6)
    assert [listed.catalog_number for listed in within(ENOUGH, registry.versions)] == [None]
    change = within(ENOUGH, lambda: registry.promote("v1.0.0", "production"))
    assert change.changed
    assert "MLflow does not show it yet" in change.notes[0]
    bundle = small_bundle(tmp_path / "bundle")
    for act in (
        registry.reconcile, lambda: registry.reconcile(dry_run=True), lambda: registry.create("v2.0.0", bundle)
    ):  # fmt: skip
        assert "does not answer" in fails_in_time(act)


def test_what_was_given_up_is_not_sent_again(mlflow_proxy: Proxy) -> None:
    others = set(threading.enumerate())
    mlflow_proxy.next(faults.drip_headers, method="POST", times=10**6)
    limits = replace(SHORT, total=3.0)
    with pytest.raises(CatalogUnreachable), Catalog(mlflow_proxy.url, STORE).connection.open(limits) as client:
        client.create_registered_model("given-up")
    wait_until_ended(others)
    sent = [method for method, path in mlflow_proxy.requests if "registered-models/create" in path]
    assert sent in ([], ["POST"]), "a busy machine may give up before it sends, but never sends twice"


@pytest.mark.acceptance
def test_looking_into_loggedmodels_that_drip_has_a_total_time(
    store_url: str, model: str, tmp_path: Path, mlflow_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = open_registry(tmp_path, store_url, model, tracking_uri=mlflow_proxy.url)
    registry.store.initialise()
    names = ["v1.0.0", "v2.0.0", "v3.0.0"]
    for seed, name in enumerate(names):
        registry.create(name, small_bundle(tmp_path / name, seed=seed))
        registry.promote(name, "staging")
    registry.reconcile()
    monkeypatch.setattr(reconciler_module, "_LOOKING_SECONDS", 1.0)
    mlflow_proxy.next(faults.drip_body, method="GET", containing="/mlflow-artifacts/artifacts/", times=10**6)
    others = set(threading.enumerate())
    done = within(ENOUGH, registry.reconcile)
    assert [line.partition(":")[0] for line in done.failed] == names
    assert all("does not answer: timed out" in line for line in done.failed)
    wait_until_ended(others)

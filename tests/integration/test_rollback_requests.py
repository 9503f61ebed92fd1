"""Rollbacks that are asked for in the MLflow UI: by the channel's own rules, once, and never from a stale mirror."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from registry.api import Registry
from registry.catalog.description import Description
from tests.support.mlflow_versions import client, register
from tests.support.registries import bind, open_registry

V1, V2, V3 = "v1.0.0", "v1.1.0", "v2.0.0"
OFF = "format: 1\nchannels: {staging: {}, production: {rollback_requests: false}}\n"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, tracking_uri: str) -> Registry:
    """Three versions that were in production one after the other, registered in MLflow as 1, 2 and 3."""
    registry = open_registry(tmp_path, store_url, model, tracking_uri=tracking_uri, who="ops")
    registry.store.initialise()
    bind(registry, V1, V2, V3)
    register(registry, V1, V2, V3)
    for version in (V1, V2, V3):
        registry.promote(version, "production")
    return registry


def ask(registry: Registry, number: int) -> tuple[str, ...]:
    """Set the alias as a person does, and reconcile; returns the answers."""
    client(registry).set_registered_model_alias(registry.model, "request-rollback", str(number))
    answers = registry.reconcile().requests
    assert "request-rollback" not in client(registry).get_registered_model(registry.model).aliases
    return answers


def notices(registry: Registry, number: int) -> dict[str, str]:
    found = client(registry).get_model_version(registry.model, str(number))
    return dict(Description.parse(found.description, "").notices)


def served(registry: Registry) -> list[str]:
    return [record.stable.version for record in registry.history() if record.stable]


@pytest.mark.acceptance
def test_on_the_served_version_it_rolls_back_from_it(registry: Registry) -> None:
    (answer,) = ask(registry, 3)
    assert answer.startswith(f"{V3} for rollback: rolled ")
    assert served(registry) == [V2, V3, V2, V1]
    record = registry.history(limit=1)[0]
    assert (record.action, record.who) == ("rollback", "a request in MLflow, by way of ops")
    assert record.reason == "asked for in MLflow: alias request-rollback on its version 3"
    found = client(registry).get_model_version(registry.model, "3")
    assert found.tags["withdrawn"] == "production"
    assert "asked for in MLflow" in notices(registry, 3)["Withdrawn from production"]
    assert client(registry).get_registered_model(registry.model).aliases["production"] == "2"


@pytest.mark.acceptance
def test_on_an_earlier_version_it_rolls_back_to_it(registry: Registry) -> None:
    ask(registry, 1)
    assert served(registry)[0] == V1
    assert registry.history(limit=1)[0].withdrawn == (V3, V2)


@pytest.mark.acceptance
def test_on_any_other_version_it_is_refused_with_what_to_do(registry: Registry) -> None:
    ask(registry, 3)
    ask(registry, 3)
    assert served(registry) == [V2, V3, V2, V1]
    assert "production does not serve v2.0.0" in notices(registry, 3)["Refused: request-rollback"]


@pytest.mark.acceptance
def test_the_policy_can_switch_it_off(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "off.yaml").write_text(OFF)
    strict = Registry(settings=replace(registry.settings, policy=tmp_path / "off.yaml"))
    ask(strict, 3)
    assert served(registry)[0] == V3
    assert "policy switches rollbacks by request off" in notices(registry, 3)["Refused: request-rollback"]
    assert client(registry).get_model_version(registry.model, "3").tags["request"] == "rollback refused"

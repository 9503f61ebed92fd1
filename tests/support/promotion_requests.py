"""Promotions that a person asks for in the MLflow UI, and what it shows of them."""

from __future__ import annotations

from pathlib import Path

from registry.api import Registry
from registry.catalog.description import Description
from tests.support.mlflow_versions import client, register
from tests.support.registries import bind, open_registry

V1, V2, V3 = "v1.0.0", "v1.1.0", "v2.0.0-dinov3"
NUMBERS = {V1: 1, V2: 2, V3: 3}


def with_three_versions(folder: Path, store_url: str, model: str, tracking_uri: str) -> Registry:
    """Three versions, registered in MLflow as 1, 2 and 3; the first is in production."""
    registry = open_registry(folder, store_url, model, tracking_uri=tracking_uri, who="ops")
    registry.store.initialise()
    bind(registry, V1, V2, V3)
    register(registry, V1, V2, V3)
    registry.promote(V1, "production")
    return registry


def ask(registry: Registry, version: str, channel: str = "production") -> None:
    """What a person does in the UI."""
    client(registry).set_registered_model_alias(registry.model, f"request-{channel}", str(NUMBERS[version]))


def tags_of(registry: Registry, version: str) -> dict[str, str]:
    return dict(client(registry).get_model_version(registry.model, str(NUMBERS[version])).tags)


def answer(registry: Registry, version: str, channel: str = "production") -> str:
    """The claim while it is decided; after that what the top of the version's page says."""
    found = client(registry).get_model_version(registry.model, str(NUMBERS[version]))
    notices = Description.parse(found.description, version).notices
    refused = notices.get(f"Refused: request-{channel}")
    answered = f"refused {refused}" if refused else notices.get(f"Done: request-{channel}", "")
    return found.tags.get(f"ulora.request.{channel}") or answered


def notices(registry: Registry, version: str) -> dict[str, str]:
    found = client(registry).get_model_version(registry.model, str(NUMBERS[version]))
    return dict(Description.parse(found.description, version).notices)


def aliases(registry: Registry) -> dict[str, int]:
    found = client(registry).get_registered_model(registry.model).aliases
    return {alias: int(number) for alias, number in found.items() if not alias.startswith("v")}


def generations(registry: Registry, channel: str = "production") -> list[str]:
    """What each record of a channel made stable, oldest first."""
    return [record.stable.version for record in reversed(registry.history(channel)) if record.stable]

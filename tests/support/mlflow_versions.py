"""Versions in MLflow, tagged and named as `Catalog.log` does, but without artifacts: for tests that load none."""

from __future__ import annotations

import uuid
from typing import Any

from registry.api import Registry
from registry.names import VersionName


def client(registry: Registry) -> Any:
    """MLflow's own client for a registry's server."""
    import mlflow

    return mlflow.MlflowClient(registry.settings.tracking_uri)


def register(registry: Registry, *versions: str | None) -> None:
    """Register versions as 1, 2, …; None is one that others registered."""
    theirs = client(registry)
    theirs.create_registered_model(registry.model)
    logged = theirs.create_logged_model(theirs.create_experiment(f"{registry.model}-{uuid.uuid4().hex}"))
    for version in versions:
        register_one(registry, version, logged.model_id)


def register_one(registry: Registry, version: str | None, model_id: str) -> None:
    """Register one more; `model_id` is that of any logged model."""
    tags = {}
    if version:
        content = registry.bindings.get(VersionName.parse(version)).content_sha256
        tags = {"ulora.version": version, "ulora.content_sha256": content}
    registered = client(registry).create_model_version(
        registry.model, f"models:/{model_id}", tags=tags, await_creation_for=0, model_id=model_id
    )
    if version:
        alias = VersionName.parse(version).alias
        client(registry).set_registered_model_alias(registry.model, alias, registered.version)

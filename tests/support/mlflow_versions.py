"""Versions in MLflow, named as `Catalog.log` does, with the manifest as their only artifact, and with the tags of
earlier releases."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry.api import Registry
from registry.catalog import tags
from registry.catalog.held_files import FOLDER
from registry.names import VersionName


def client(registry: Registry) -> Any:
    """MLflow's own client for a registry's server."""
    import mlflow

    return mlflow.MlflowClient(registry.settings.tracking_uri)


def register(registry: Registry, *versions: str | None) -> None:
    """Register versions as 1, 2, …; None is one that others registered."""
    theirs = client(registry)
    theirs.create_registered_model(registry.model, tags={tags.STORE: registry.catalog.claim})
    for version in versions:
        register_one(registry, version)


def register_one(registry: Registry, version: str | None, *, says_store: bool = True) -> int:
    """Register one more, and return its number. Early releases did not say the store."""
    its_tags = tags_of(registry, version) if version else {}
    if not says_store:
        del its_tags[tags.STORE]
    number = register_as(client(registry), registry.model, its_tags, manifest=_manifest(registry, version))
    if version:
        alias = VersionName.parse(version).alias
        client(registry).set_registered_model_alias(registry.model, alias, str(number))
    return number


def _manifest(registry: Registry, version: str | None) -> bytes:
    return registry.manifest(version).to_bytes() if version else b""


def tags_of(registry: Registry, version: str) -> dict[str, str]:
    """The tags of a version of a registry's store that identify it."""
    binding = registry.bindings.get(VersionName.parse(version))
    return {
        tags.STORE: registry.settings.store,
        tags.VERSION: version,
        tags.CONTENT: binding.content_sha256,
        tags.MANIFEST: binding.manifest_sha256,
    }


def register_as(
    theirs: Any,
    model: str,
    its_tags: Mapping[str, str],
    logged_as: Mapping[str, str] | None = None,
    manifest: bytes = b"",
) -> int:
    """Register a version with these tags, and return its number. Its LoggedModel has the same, or those given."""
    experiment = theirs.get_experiment_by_name(model)
    experiment_id = experiment.experiment_id if experiment else theirs.create_experiment(model)
    logged = theirs.create_logged_model(experiment_id, tags=dict(its_tags if logged_as is None else logged_as))
    if manifest:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "version.json").write_bytes(manifest)
            theirs.log_model_artifacts(logged.model_id, folder, FOLDER)
    registered = theirs.create_model_version(
        model, f"models:/{logged.model_id}", tags=dict(its_tags), await_creation_for=0, model_id=logged.model_id
    )
    return int(registered.version)

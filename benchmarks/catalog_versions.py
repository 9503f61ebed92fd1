"""A model with many versions in the store and in MLflow, as `create` leaves them there.

Creating 10,000 versions through MLflow takes hours, so they are inserted into its database by its own classes: the
registered version with its page and its alias, the summary run, and the LoggedModel with what identifies the version.
Only the artifacts are missing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.comparison import say
from benchmarks.empty_versions import bind_empty, version_names
from registry.api import Registry
from registry.catalog import runs, summary, tags
from registry.catalog.description import Description
from registry.catalog.entries import create_registered_model, people_of
from registry.catalog.version_page import VersionPage
from registry.parallel import in_parallel
from registry.versions.bindings import Binding

_BATCH = 5000
Rows = Iterator[tuple[type, dict[str, Any]]]
"""Rows of tables, each with the class of its table."""


def fill(registry: Registry, database: str, count: int) -> None:
    """Give a registry's model so many versions.

    Args:
        database: the address of MLflow's database, for SQLAlchemy.
    """
    bind_empty(registry, version_names(count))
    with registry.catalog.connection.open() as client:
        create_registered_model(client, registry.model, registry.catalog.claim)
        experiment = runs.experiment_id(client, registry.model)
    reconciler = registry.reconciler()
    source = reconciler.pages(False)
    say(f"{registry.model}: reading {count} versions from the store")
    bound = in_parallel(reconciler.bindings.get, reconciler.bindings.names())
    pages = in_parallel(source.page, bound)
    say(f"{registry.model}: inserting {count} versions into MLflow's database")
    rows: dict[type, list[dict[str, Any]]] = {}
    for number, (binding, page) in enumerate(zip(bound, pages, strict=True), start=1):
        for table, row in _rows(registry.catalog.store, int(experiment), number, binding, page):
            rows.setdefault(table, []).append(row)
    _insert(database, rows)


def _rows(store: str, experiment: int, number: int, binding: Binding, page: VersionPage) -> Rows:
    """What `create` leaves of one version, parents before children."""
    from mlflow.store.model_registry.dbmodels import models as registered
    from mlflow.store.tracking.dbmodels import models as tracked

    manifest, now = page.manifest, int(time.time() * 1000)
    run_id, model_id = secrets.token_hex(16), f"m-{secrets.token_hex(16)}"
    identity = tags.identity(manifest, binding.manifest_sha256, store)
    described = Description(manifest.version, people=people_of(manifest), table=page.table(), mark=page.mark)
    of_run = {**identity, tags.SUMMARY: identity[tags.MANIFEST], **summary.source_tags("ulora create", "a benchmark")}
    place = f"mlflow-artifacts:/{experiment}"
    yield tracked.SqlRun, {
        "run_uuid": run_id, "name": manifest.version, "experiment_id": experiment, "status": "FINISHED",
        "source_type": "LOCAL", "user_id": "a benchmark", "start_time": now, "end_time": now,
        "lifecycle_stage": "active", "artifact_uri": f"{place}/{run_id}/artifacts",
    }  # fmt: skip
    for key, value in (of_run | {"mlflow.runName": manifest.version}).items():
        yield tracked.SqlTag, {"run_uuid": run_id, "key": key, "value": value}
    for key, value in summary.params(manifest).items():
        yield tracked.SqlParam, {"run_uuid": run_id, "key": key, "value": value}
    yield tracked.SqlLoggedModel, {
        "model_id": model_id, "experiment_id": experiment, "name": manifest.name.alias, "status": 2,
        "artifact_location": f"{place}/models/{model_id}/artifacts", "creation_timestamp_ms": now,
        "last_updated_timestamp_ms": now, "lifecycle_stage": "active", "source_run_id": run_id,
    }  # fmt: skip
    whose = {"model_id": model_id, "experiment_id": experiment}
    for key, value in identity.items():
        yield tracked.SqlLoggedModelTag, {**whose, "tag_key": key, "tag_value": value}
    for key, value in summary.params(manifest).items():
        yield tracked.SqlLoggedModelParam, {**whose, "param_key": key, "param_value": value}
    which = {"name": manifest.model, "version": number}
    yield registered.SqlModelVersion, {
        **which, "creation_time": now, "last_updated_time": now, "current_stage": "None", "run_id": run_id,
        "source": f"models:/{model_id}", "storage_location": f"{place}/models/{model_id}/artifacts",
        "status": "READY", "description": str(described),
    }  # fmt: skip
    for key, value in page.short_tags().items():
        yield registered.SqlModelVersionTag, {**which, "key": key, "value": value}
    yield registered.SqlRegisteredModelAlias, {**which, "alias": manifest.name.alias}


def _insert(database: str, rows: Mapping[type, list[dict[str, Any]]]) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(database, connect_args={"timeout": 60} if database.startswith("sqlite") else {})
    with engine.begin() as connection:
        for table, values in rows.items():
            for start in range(0, len(values), _BATCH):
                connection.execute(sqlalchemy.insert(table), values[start : start + _BATCH])
        if database.startswith("postgresql"):
            connection.execute(sqlalchemy.text("analyze"))  # as its own daemon does after a while
    engine.dispose()

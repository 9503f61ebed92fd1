"""What MLflow shows of composed versions and rollback scripts, which are made without it."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from tests.support.echo_releases import wait_until
from tests.support.registries import create, open_registry


@pytest.mark.acceptance
def test_reconcile_logs_a_composed_version_and_the_script(
    store_url: str, model: str, tmp_path: Path, tracking_uri: str, dead_address: str
) -> None:
    offline = open_registry(tmp_path, store_url, model, tracking_uri=dead_address)
    offline.store.initialise()
    for name in ("v1.0.0", "v2.0.0"):
        create(offline, name, tmp_path)
        offline.promote(name, "production")
    composed = offline.rollback(only=["adapters/low"]).version

    online = open_registry(tmp_path, store_url, model, tracking_uri=tracking_uri)
    assert composed in online.reconcile().logged
    shown = {found.version: found for found in online.catalog.versions(model)}
    client = MlflowClient(tracking_uri)
    production = client.get_registered_model(model).aliases["production"]
    assert int(production) == shown[composed].number
    assert (shown[composed].stage, shown["v2.0.0"].stage) == ("Production", "Archived")

    (script,) = online.rollback_scripts()
    wait_until(lambda: online.mirror(scripts=[script], seconds=60) == (), seconds=120)
    place = client.get_logged_model(str(shown["v1.0.0"].model_id)).artifact_location
    kept = mlflow.artifacts.download_artifacts(f"{place}/{script.name}", tracking_uri=tracking_uri)
    assert Path(kept).read_bytes() == script.body
    again = online.create("v3.0.0", f"models:/{model}/{shown['v1.0.0'].number}", offline=True)
    assert again.content_sha256 == online.manifest("v1.0.0").content_sha256

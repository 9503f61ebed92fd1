"""The summary run of a version: what MLflow's page for comparing versions shows of it.

Every version has one, with the same names of parameters, metrics and plots, so that versions stand side by side. The
metrics are those over all targets; those of each target are in the runs of the evidence, and on the LoggedModel.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from registry.catalog import tags
from registry.machine.scratch import scratch
from registry.versions.manifest import Manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_MAX_PARAM = 250


def summary_run(
    client: MlflowClient, experiment: str, manifest: Manifest, identity: Mapping[str, str], who: str = ""
) -> str:
    """The id of a version's summary run, created if there is none.

    Args:
        identity: the tags that identify the version.
        who: shown as the run's user.
    """
    from mlflow.entities import Param

    made = milliseconds(manifest.timestamp)
    run = _find(client, experiment, identity)
    if run is None:
        its_tags = {**identity, tags.SUMMARY: identity[tags.MANIFEST], **source_tags("ulora create", who)}
        run = client.create_run(experiment, start_time=made, tags=its_tags, run_name=manifest.version)
    run_id = str(run.info.run_id)
    if run.info.status != "FINISHED":  # new, or left by a process that was stopped here
        client.log_batch(run_id, params=[Param(name, value[:_MAX_PARAM]) for name, value in params(manifest).items()])
        client.set_terminated(run_id, end_time=made)
    return run_id


def _find(client: MlflowClient, experiment: str, identity: Mapping[str, str]) -> Run | None:
    """A version's summary run, None if there is none. Of several, which a race may leave, the first one."""
    query = f"tags.`{tags.SUMMARY}` = '{identity[tags.MANIFEST]}' and tags.`{tags.STORE}` = '{identity[tags.STORE]}'"
    found = list(client.search_runs([experiment], query))
    return min(found, key=lambda run: (run.info.status != "FINISHED", str(run.info.run_id)), default=None)


def show_summary(client: MlflowClient, run_id: str, metrics: Mapping[str, float], when: int) -> None:
    """Write the metrics of a version that differ from what its summary run shows.

    Args:
        when: of the newest evidence, milliseconds.
    """
    from mlflow.entities import Metric

    shown = client.get_run(run_id).data.metrics
    differ = {name: value for name, value in tags.finite(metrics).items() if shown.get(name) != value}
    if differ:
        client.log_batch(run_id, metrics=[Metric(name, value, when, 0) for name, value in differ.items()])


def add_plots(client: MlflowClient, run_id: str, plots: Mapping[str, bytes]) -> None:
    """Write plots into a run; those of the same name are replaced."""
    if not plots:
        return
    with scratch("ulora-plots-") as folder:
        for name, data in plots.items():
            (folder / Path(name).name).write_bytes(data)
        client.log_artifacts(run_id, str(folder))


def params(manifest: Manifest) -> dict[str, str]:
    """What a version is, as parameters of its summary run and of its LoggedModel."""
    return {
        "version": manifest.version,
        "flavor": manifest.flavor,
        "family": tags.family(manifest),
        "backbone": manifest.backbone.name if manifest.backbone else "none",
        "parent": manifest.parent.version if manifest.parent else "none",
        "targets": str(sum(name.startswith("adapters/") for name in manifest.components)),
        "files": str(len(manifest.files)),
        "megabytes": f"{manifest.size / 1e6:.2f}",
    }


def source_tags(command: str, who: str) -> dict[str, str]:
    """The tags by which MLflow shows a run's user and source."""
    return {"mlflow.source.type": "LOCAL", "mlflow.source.name": command, **({"mlflow.user": who} if who else {})}


def milliseconds(timestamp: str) -> int:
    """An ISO 8601 time as MLflow counts it; now, if it is none: it only places a run in a list."""
    try:
        return int(datetime.fromisoformat(timestamp).timestamp() * 1000)
    except ValueError:
        return int(time.time() * 1000)

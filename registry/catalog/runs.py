"""Evidence in MLflow: one run for each, linked to the version's LoggedModel."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from registry.catalog import tags
from registry.catalog.entries import CatalogVersion
from registry.errors import CatalogRefused, CatalogUnreachable
from registry.evidence.results import Evidence
from registry.machine.scratch import scratch

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class EvidenceRun:
    """The content of a run that shows one piece of evidence.

    Attributes:
        evidence_sha256: digest of the evidence in the store; it is recorded once.
        metrics: values by name; those that are not finite are left out, as MLflow can't store them.
        params: what it was measured on, e.g. the device.
        plots: files by name, e.g. `ood.png`.
    """

    benchmark: str
    evidence_sha256: str
    metrics: Mapping[str, float]
    params: Mapping[str, str] = field(default_factory=dict)
    plots: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, evidence: Evidence, plot: bytes | None = None) -> Self:
        """The run for some evidence and its plot (PNG)."""
        return cls(
            benchmark=evidence.benchmark,
            evidence_sha256=evidence.sha256,
            metrics={
                f"{metric.name}.{metric.target}" if metric.target else metric.name: metric.value
                for metric in evidence.metrics
                if metric.value is not None
            },
            params={  # with a prefix: inside `mlflow run` the run has parameters of its own already
                "ulora.version": evidence.version,
                "ulora.device": evidence.device,
                "ulora.runtime": evidence.runtime,
                "ulora.data": evidence.data.name,
                "ulora.data_sha256": evidence.data.sha256,
                "ulora.n": str(evidence.data.n),
            },
            plots={f"{evidence.benchmark}.png": plot} if plot else {},
        )


def experiment_id(client: MlflowClient, model: str) -> str:
    """The id of the experiment named as the model, created if needed.

    Raises:
        CatalogRefused: it is deleted.
        CatalogUnreachable: it could not be created.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(model)
    if found is None:
        try:
            return str(client.create_experiment(model))
        except MlflowException as error:
            found = client.get_experiment_by_name(model)  # another process may have created it
            if found is None:
                raise CatalogUnreachable(f"MLflow could not create the experiment {model}") from error
    if found.lifecycle_stage == "deleted":
        raise CatalogRefused(
            f"the MLflow experiment {model} is deleted", hint="restore it: `mlflow experiments restore`"
        )
    return str(found.experiment_id)


def record_once(client: MlflowClient, model: str, version: CatalogVersion, content: EvidenceRun) -> str:
    """Record evidence in a run, unless that was done before. Returns the run's id."""
    experiment = experiment_id(client, model)
    return _find(client, experiment, content.evidence_sha256) or _record(client, experiment, version, content)


def _find(client: MlflowClient, experiment: str, evidence_sha256: str) -> str | None:
    query = f"tags.`{tags.EVIDENCE}` = '{evidence_sha256}' and attributes.status = 'FINISHED'"
    for run in client.search_runs([experiment], filter_string=query, max_results=1):
        return str(run.info.run_id)
    return None


def _record(client: MlflowClient, experiment: str, version: CatalogVersion, content: EvidenceRun) -> str:
    """Write a run. It is set to FINISHED last, so that an incomplete one is not found.

    Inside `mlflow run` the run that MLflow has opened is used; MLflow ends it.
    """
    name = version.version or f"#{version.number}"
    its_tags = {
        tags.EVIDENCE: content.evidence_sha256, tags.VERSION: name, tags.BENCHMARK: content.benchmark
    }  # fmt: skip
    opened = _opened_run(client)
    if opened:
        for key, value in its_tags.items():
            client.set_tag(opened, key, value)
        _fill(client, opened, version, content)
        return opened
    created = client.create_run(experiment, tags=its_tags, run_name=f"{name} {content.benchmark}")
    run_id = str(created.info.run_id)
    _fill(client, run_id, version, content)
    client.set_terminated(run_id)
    return run_id


def _fill(client: MlflowClient, run_id: str, version: CatalogVersion, content: EvidenceRun) -> None:
    """Write metrics, parameters and plots into a run, and link it to the version's LoggedModel."""
    from mlflow.entities import LoggedModelInput, Metric, Param

    if version.model_id is not None:
        client.log_inputs(run_id, models=[LoggedModelInput(version.model_id)])
    now = time.time_ns() // 1_000_000
    client.log_batch(
        run_id,
        metrics=[
            Metric(name, value, now, 0, model_id=version.model_id, run_id=run_id)
            for name, value in tags.finite(content.metrics).items()
        ],
        params=[Param(name, value) for name, value in content.params.items()],
    )
    with scratch("ulora-plots-") as folder:
        for name, data in content.plots.items():
            (folder / Path(name).name).write_bytes(data)
        client.log_artifacts(run_id, str(folder))


def _opened_run(client: MlflowClient) -> str | None:
    """The run that `mlflow run` opened for this process on this server, if any."""
    from mlflow.exceptions import MlflowException

    run_id = os.environ.get("MLFLOW_RUN_ID")
    try:
        return str(client.get_run(run_id).info.run_id) if run_id else None
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None

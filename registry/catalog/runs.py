"""Evidence in MLflow: one run for each, linked to the version's LoggedModel."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from registry.catalog import tags
from registry.catalog.entries import CatalogVersion
from registry.catalog.run_details import add_curves, add_table
from registry.catalog.summary import add_plots, milliseconds, source_tags
from registry.errors import CatalogRefused, CatalogUnreachable
from registry.evidence.outcomes import ImageOutcome
from registry.evidence.results import Evidence, MeasuredOn, Measurement
from registry.names import VersionName

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

_MAX_DIGEST = 36
"""Characters that MLflow takes as the digest of a data set."""


@dataclass(frozen=True)
class EvidenceRun:
    """The content of a run that shows one piece of evidence.

    Attributes:
        evidence_sha256: digest of the evidence in the store; it is recorded once.
        metrics: values by name; those that are not finite are left out, as MLflow can't store them.
        params: what it was measured on, e.g. the device.
        plots: files by name, e.g. `ood.png`.
        curves: numbers along an axis, name -> step -> value.
        outcomes: what was answered for each image.
        data: what it was measured on.
        who: shown as the run's user.
        ended: when the measurement ended, UTC, ISO 8601; empty for now.
        seconds: how long it took.
    """

    benchmark: str
    evidence_sha256: str
    metrics: Mapping[str, float]
    params: Mapping[str, str] = field(default_factory=dict)
    plots: Mapping[str, bytes] = field(default_factory=dict)
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    outcomes: Sequence[ImageOutcome] = ()
    data: MeasuredOn | None = None
    who: str = ""
    ended: str = ""
    seconds: float = 0.0

    @property
    def end(self) -> int:
        """When it ended, in milliseconds."""
        return milliseconds(self.ended)

    @classmethod
    def of(cls, evidence: Evidence, measurement: Measurement | None = None) -> Self:
        """The run for some evidence, and what else was measured with it; the store does not keep plots and curves."""
        found = measurement or Measurement((), "", "", 0)
        plots = {f"{evidence.benchmark}.png": found.plot} if found.plot else {}
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
                **_conditions(evidence),
            },
            plots={**plots, **{f"{evidence.benchmark}_{name}.png": data for name, data in found.plots.items()}},
            curves=found.curves,
            outcomes=found.outcomes,
            data=evidence.data,
            who=evidence.who,
            ended=evidence.timestamp,
            seconds=evidence.seconds,
        )


def _conditions(evidence: Evidence) -> dict[str, str]:
    """The parameters that say what times were measured on and against."""
    found = {}
    if evidence.machine:
        found["ulora.machine"] = str(evidence.machine)
    if evidence.against:
        found["ulora.against"] = f"{evidence.against.version} {evidence.against.manifest_sha256[:12]}"
    return found


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
    """Record evidence in a run, unless that was done before. Returns the run's id.

    Inside `mlflow run`, the run that MLflow has opened is used if it is in the model's experiment; MLflow ends it. A
    run can't be moved: one in another experiment gets a note that says where the evidence is.
    """
    experiment = experiment_id(client, model)
    found = _find(client, experiment, content.evidence_sha256)
    if found and found.info.status == "FINISHED":
        return str(found.info.run_id)
    name = version.version or f"#{version.number}"
    its_tags = {
        tags.EVIDENCE: content.evidence_sha256, tags.VERSION: name, tags.BENCHMARK: content.benchmark,
        **source_tags("ulora measure", content.who),
    }  # fmt: skip
    title, opened = f"{name} {content.benchmark}", _opened_run(client)
    if opened and opened.info.experiment_id == experiment:
        run_id = str(opened.info.run_id)
        client.update_run(run_id, name=title)
        for key, value in its_tags.items():
            if not key.startswith("mlflow."):  # MLflow has said what started it, and by whom
                client.set_tag(run_id, key, value)
        _fill(client, run_id, version, content)
        return run_id
    start = content.end - int(content.seconds * 1000)
    run = found or client.create_run(experiment, start_time=start, tags=its_tags, run_name=title)
    run_id = str(run.info.run_id)
    _fill(client, run_id, version, content)
    client.set_terminated(run_id, end_time=content.end)
    if opened:
        said = f"[{title}](#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning) has the results"
        client.set_tag(opened.info.run_id, "mlflow.note.content", said)
    return run_id


def evidence_runs(client: MlflowClient, experiment: str, name: str) -> dict[str, str]:
    """The runs that show evidence of a version, by the evidence's digest."""
    query = f"tags.`{tags.VERSION}` = '{VersionName.parse(name)}' and attributes.status = 'FINISHED'"
    found = client.search_runs([experiment], query)
    return {run.data.tags[tags.EVIDENCE]: str(run.info.run_id) for run in found if tags.EVIDENCE in run.data.tags}


def _find(client: MlflowClient, experiment: str, evidence_sha256: str) -> Run | None:
    """The run that shows some evidence: a finished one, else one that a process left which was stopped."""
    found = list(client.search_runs([experiment], f"tags.`{tags.EVIDENCE}` = '{evidence_sha256}'"))
    return min(found, key=lambda run: run.info.status != "FINISHED", default=None)


def _fill(client: MlflowClient, run_id: str, version: CatalogVersion, content: EvidenceRun) -> None:
    """Write what is known of some evidence into a run, and link it to the version's LoggedModel."""
    from mlflow.entities import LoggedModelInput, Metric, Param

    models = [LoggedModelInput(version.model_id)] if version.model_id is not None else []
    client.log_inputs(run_id, datasets=[_dataset(content.data)] if content.data else [], models=models)
    client.log_batch(
        run_id,
        metrics=[
            Metric(name, value, content.end, 0, model_id=version.model_id, run_id=run_id)
            for name, value in tags.finite(content.metrics).items()
        ],
        params=[Param(name, value) for name, value in content.params.items()],
    )
    add_plots(client, run_id, content.plots)
    if version.run_id is not None:
        add_plots(client, version.run_id, content.plots)
    add_curves(client, run_id, content.curves, content.end)
    add_table(client, run_id, content.outcomes)


def _dataset(data: MeasuredOn) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return DatasetInput(
        Dataset(
            name=data.name, digest=data.sha256[:_MAX_DIGEST], source_type="ulora",
            source=json.dumps({"sha256": data.sha256}), profile=json.dumps({"images": data.n}),
        ),
        [InputTag("mlflow.data.context", "test")],
    )  # fmt: skip


def _opened_run(client: MlflowClient) -> Run | None:
    """The run that `mlflow run` opened for this process on this server, if any."""
    from mlflow.exceptions import MlflowException

    run_id = os.environ.get("MLFLOW_RUN_ID")
    try:
        return client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None

"""Evidence in MLflow: one run for each, linked to the version's LoggedModel."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from registry.catalog import tags
from registry.catalog.entries import CatalogVersion
from registry.catalog.opened_run import OpenedRun
from registry.catalog.run_details import add_table
from registry.catalog.run_writer import RunContent, write
from registry.catalog.summary import add_plots, milliseconds, source_tags
from registry.errors import CatalogRefused, CatalogUnreachable
from registry.evidence.outcomes import ImageOutcome
from registry.evidence.results import Evidence, MeasuredOn, Measurement, Metric
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
        plots: files by name, e.g. `ood.png`; the version's summary run shows them too.
        intervals: the ends of the metrics' intervals and their numbers of samples, `low/accuracy`; of the run only.
        curves: numbers along an axis, name -> step -> value.
        outcomes: what was answered for each image.
        files: what else the run holds, by name, such as the evidence itself.
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
    intervals: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    outcomes: Sequence[ImageOutcome] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
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
            metrics={metric_key(metric): metric.value for metric in evidence.metrics if metric.value is not None},
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
            intervals=dict(_intervals(evidence.metrics)),
            curves=found.curves,
            outcomes=found.outcomes,
            files={"evidence.json": evidence.to_bytes()},
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


def metric_key(metric: Metric) -> str:
    """A metric's name in MLflow: with its target, if it is of one."""
    return f"{metric.name}.{metric.target}" if metric.target else metric.name


def _intervals(metrics: Iterable[Metric]) -> Iterator[tuple[str, float]]:
    """In groups of their own, so that MLflow's page shows them apart, and so that no target can bear such a name."""
    for metric in metrics:
        if metric.value is not None:
            yield f"n/{metric_key(metric)}", metric.n
            if metric.low is not None and metric.high is not None:
                yield f"low/{metric_key(metric)}", metric.low
                yield f"high/{metric_key(metric)}", metric.high


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

    Inside `mlflow run` the opened run is used or refers to it; see `registry.catalog.opened_run`.
    """
    experiment = experiment_id(client, model)
    found = _find(client, experiment, content.evidence_sha256)
    opened = OpenedRun.find(client)
    name = version.version or f"#{version.number}"
    title = f"{name} {content.benchmark}"
    if found and found.info.status == "FINISHED":
        run_id = str(found.info.run_id)
    elif opened and opened.is_for(experiment, content.benchmark, content.evidence_sha256):
        return _use(client, opened, title, version, content)
    else:
        parent = opened.parent_tags(experiment) if opened else {}
        its_tags = _tags(name, content) | source_tags("ulora measure", content.who) | parent
        start = content.end - int(content.seconds * 1000)
        run = found or client.create_run(experiment, start_time=start, tags=its_tags, run_name=title)
        run_id = str(run.info.run_id)
        _fill(client, run_id, version, content)
        client.set_terminated(run_id, end_time=content.end)
    if opened and opened.run_id != run_id:
        opened.refer(client, title, experiment, run_id)
    return run_id


def _use(client: MlflowClient, opened: OpenedRun, title: str, version: CatalogVersion, content: EvidenceRun) -> str:
    """Show evidence in the opened run. MLflow has said what started it, and by whom, and will end it."""
    client.update_run(opened.run_id, name=title)
    for key, value in _tags(version.version or f"#{version.number}", content).items():
        client.set_tag(opened.run_id, key, value)
    _fill(client, opened.run_id, version, content)
    return opened.run_id


def _tags(name: str, content: EvidenceRun) -> dict[str, str]:
    return {tags.EVIDENCE: content.evidence_sha256, tags.VERSION: name, tags.BENCHMARK: content.benchmark}


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
    """Write what a run shows, and link it to the version's LoggedModel."""
    from mlflow.entities import LoggedModelInput

    models = [LoggedModelInput(version.model_id)] if version.model_id is not None else []
    client.log_inputs(run_id, datasets=[_dataset(content.data)] if content.data else [], models=models)
    curves = {f"curves/{name}": curve for name, curve in content.curves.items()}
    of_version = RunContent(content.params, content.metrics, curves, {**content.plots, **content.files})
    write(client, run_id, of_version, content.end, version.model_id)
    write(client, run_id, RunContent(metrics=content.intervals), content.end)
    if version.run_id is not None:
        add_plots(client, version.run_id, content.plots)
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

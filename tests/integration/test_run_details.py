"""What MLflow shows of a measurement beside its metrics: a table of the answers, and curves."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.api import Registry
from registry.catalog import run_details
from registry.catalog.runs import EvidenceRun, experiment_id
from registry.evidence.outcomes import ImageOutcome
from registry.evidence.results import Evidence, Measurement, Metric
from registry.names import VersionName
from registry.versions.bindings import Binding
from tests.support.mlflow_versions import register
from tests.support.registries import bind, open_registry
from tests.unit.evidence.samples import evidence

V1 = "v1.0.0"


@pytest.fixture
def registry(store_url: str, tracking_uri: str, model: str, tmp_path: Path) -> Registry:
    opened = open_registry(tmp_path, store_url, model, tracking_uri=tracking_uri)
    opened.store.initialise()
    bind(opened, V1)
    register(opened, V1)
    return opened


def outcome(number: int) -> ImageOutcome:
    return ImageOutcome(image=f"a{number:063x}", target="low", label="a", answered_label="b", probability=0.5)


def measured(n: int) -> tuple[Evidence, Measurement]:
    found = Measurement(
        (Metric.proportion("accuracy", n, n),), "a" * 64, "images", n, b"png", {"reliability": b"more"},
        {"accuracy_by_coverage": {5: 1.0, 10: 0.5}}, tuple(outcome(number) for number in reversed(range(n))),
    )  # fmt: skip
    return evidence("accuracy", measurement=found), found


def binding(registry: Registry) -> Binding:
    return registry.bindings.get(VersionName.parse(V1))


def test_a_run_shows_answers_as_a_table_and_curves(registry: Registry, tracking_uri: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri)
    run_id = registry.catalog.record_evidence(binding(registry), EvidenceRun.of(*measured(3)))
    run = client.get_run(run_id)
    assert {each.path for each in client.list_artifacts(run_id)} == {
        *("accuracy.png", "accuracy_reliability.png", "evidence.json", "outcomes.json")
    }
    assert run.data.tags[run_details.TABLE_TAG] == "all 3 answers are in outcomes.json"
    table = client.load_table(run.info.experiment_id, "outcomes.json", run_ids=[run_id])
    assert list(table.columns) == ["image", "kind", "target", "label", "answered_label", "probability"]
    assert list(table["image"]) == [outcome(number).image for number in range(3)]
    points = client.get_metric_history(run_id, "curves/accuracy_by_coverage")
    assert {point.step: point.value for point in points} == {5: 1.0, 10: 0.5}


def test_evidence_of_two_benchmarks_is_in_two_runs(
    registry: Registry, tracking_uri: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also inside one run that MLflow has opened, and if one of them is recorded again."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri)
    experiment = experiment_id(client, model)
    opened = client.create_run(experiment, tags={"mlflow.project.entryPoint": "accuracy"}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    contents = [EvidenceRun.of(*measured(n)) for n in (3, 4)]
    found = [registry.catalog.record_evidence(binding(registry), content) for content in (*contents, contents[0])]
    assert found == [opened, found[1], opened]
    assert found[1] != opened
    for run_id, content in zip(found, contents, strict=False):
        run = client.get_run(run_id)
        assert run.data.tags["ulora.evidence_sha256"] == content.evidence_sha256
        assert run.data.params["ulora.n"] == content.params["ulora.n"]
        assert client.load_table(experiment, "outcomes.json", run_ids=[run_id]).shape[0] == len(content.outcomes)
    assert client.get_run(opened).info.status == "RUNNING"
    client.set_terminated(opened)


def test_a_long_table_is_cut_and_says_so(
    registry: Registry, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(run_details, "MAX_ROWS", 2)
    run_id = registry.catalog.record_evidence(binding(registry), EvidenceRun.of(*measured(3)))
    told = MlflowClient(tracking_uri).get_run(run_id).data.tags[run_details.TABLE_TAG]
    assert told == "2 of 3 answers are in outcomes.json: those of the images with the lowest digests"


def test_a_table_that_fails_is_no_error(registry: Registry, tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(run_details, "TABLE", "no/such\x00name")
    run_id = registry.catalog.record_evidence(binding(registry), EvidenceRun.of(*measured(3)))
    run = MlflowClient(tracking_uri).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags[run_details.TABLE_TAG].startswith("not shown: ")

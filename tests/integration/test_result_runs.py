"""Runs that show a result of several versions, or of the software: however much they hold, and however they end."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from registry.catalog.connection import Connection
from registry.catalog.run_writer import ResultRun, RunContent, record_result
from registry.catalog.runs import experiment_id
from registry.catalog.tables import table
from registry.errors import CatalogRefused


@pytest.fixture
def experiment(tracking_uri: str, model: str) -> str:
    return str(MlflowClient(tracking_uri).create_experiment(model))


def record(tracking_uri: str, model: str, content: RunContent) -> str:
    with Connection(tracking_uri).open() as client:
        return record_result(client, experiment_id(client, model), ResultRun("scale", "scale tiny", content, who="ann"))


def test_a_run_holds_more_than_mlflow_takes_at_once(tracking_uri: str, experiment: str, model: str) -> None:
    content = RunContent(
        params={f"p{number}": "x" for number in range(150)},
        metrics={"met": 1.0, "none": float("nan")},
        curves={"samples": {step: float(step) for step in range(1500)}},
        files={"answers.table.json": table(["image", "label"], [["a", "rust"]])},
    )
    client, run_id = MlflowClient(tracking_uri), record(tracking_uri, model, content)
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name, run.info.user_id) == ("FINISHED", "scale tiny", "ann")
    assert len(run.data.params) == 150
    assert run.data.metrics == {"met": 1.0, "samples": 1499.0}
    assert [point.step for point in client.get_metric_history(run_id, "samples")] == list(range(1500))
    assert "answers.table.json" in run.data.tags["mlflow.loggedArtifacts"]


def test_a_run_that_cannot_be_filled_is_failed(tracking_uri: str, experiment: str, model: str) -> None:
    with pytest.raises(CatalogRefused):
        record(tracking_uri, model, RunContent(params={"not; a name": "x"}))
    (run,) = MlflowClient(tracking_uri).search_runs([experiment])
    assert run.info.status == "FAILED"


def test_a_note_of_the_opened_run_names_every_result(
    tracking_uri: str, experiment: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(tracking_uri)
    opened = client.create_run("0", tags={"mlflow.project.entryPoint": "scale"}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    found = [record(tracking_uri, model, RunContent(metrics={"met": 1.0})) for _ in range(2)]
    client.set_terminated(opened)
    assert all(run_id in client.get_run(opened).data.tags["mlflow.note.content"] for run_id in found)


def test_the_opened_run_shows_a_result_of_its_own_experiment(
    tracking_uri: str, experiment: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(tracking_uri)
    opened = client.create_run(experiment, tags={"mlflow.project.entryPoint": "scale"}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    assert record(tracking_uri, model, RunContent(metrics={"met": 1.0})) == opened
    assert client.get_run(opened).info.run_name == "scale tiny"
    client.set_terminated(opened)


def test_a_second_result_does_not_overwrite_the_first(
    tracking_uri: str, experiment: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(tracking_uri)
    opened = client.create_run(experiment, tags={"mlflow.project.entryPoint": "scale"}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    contents = [
        RunContent({"ulora.size": size}, {"met": met}, files={"a.table.json": table(["image"], [[size]])})
        for size, met in (("tiny", 0.0), ("full", 1.0))
    ]
    found = [record(tracking_uri, model, content) for content in contents]
    assert (found[0], len(set(found))) == (opened, 2)
    for run_id, content in zip(found, contents, strict=True):
        run = client.get_run(run_id)
        assert (run.data.params, run.data.metrics) == (content.params, content.metrics)
        assert list(client.load_table(experiment, "a.table.json", run_ids=[run_id])["image"]) == [
            *content.params.values()
        ]
    second = client.get_run(found[1])
    assert (second.data.tags["mlflow.parentRunId"], second.info.status) == (opened, "FINISHED")
    assert found[1] in client.get_run(opened).data.tags["mlflow.note.content"]
    client.set_terminated(opened)


def test_a_run_of_somebodys_own_program_is_left_to_it(
    tracking_uri: str, experiment: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(tracking_uri)
    opened = client.create_run(experiment, run_name="theirs").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    child = record(tracking_uri, model, RunContent(metrics={"met": 1.0}))
    assert client.get_run(child).data.tags["mlflow.parentRunId"] == opened
    run = client.get_run(opened)
    assert (run.info.run_name, run.data.metrics) == ("theirs", {})
    client.set_terminated(opened)

"""Write into a run what it shows: parameters, metrics, curves, files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from registry.catalog import tags
from registry.catalog.opened_run import OpenedRun
from registry.catalog.summary import add_plots, milliseconds, source_tags
from registry.catalog.tables import ENDING, show_tables

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_BATCH, _PARAMS = 1000, 100
"""Metrics and parameters that MLflow takes at once."""
_MAX_POINTS = 10_000
_MAX_PARAM = 6000


@dataclass(frozen=True)
class RunContent:
    """What a run shows.

    Attributes:
        params: values by name.
        metrics: values by name; those that are not finite are left out, as MLflow can't store them.
        curves: numbers along an axis, name -> step -> value; the step is e.g. a number of versions.
        files: their bytes by name: plots, tables, raw samples.
    """

    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultRun:
    """A run that shows a comparison of two versions, or a measurement of this software.

    Attributes:
        entry_point: what made it.
        title: the run's name.
        who: shown as the run's user.
        began: milliseconds.
        tags: by name.
        command: shown as the run's source.
        once: the name of one of the tags, by whose value the result is known: it is recorded once.
    """

    entry_point: str
    title: str
    content: RunContent
    who: str = ""
    began: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    command: str = "python -m benchmarks"
    once: str = ""


def write(client: MlflowClient, run_id: str, content: RunContent, when: int, model_id: str | None = None) -> None:
    """Write content into a run.

    Args:
        when: milliseconds.
        model_id: the LoggedModel that metrics and curves are of, if they are of one.
    """
    from mlflow.entities import Param

    points = _points(content, when, model_id, run_id)
    while batch := list(islice(points, _BATCH)):
        client.log_batch(run_id, metrics=batch)
    params = iter(Param(name, value[:_MAX_PARAM]) for name, value in content.params.items())
    while some := list(islice(params, _PARAMS)):
        client.log_batch(run_id, params=some)
    add_plots(client, run_id, content.files)
    show_tables(client, run_id, [name for name in content.files if name.endswith(ENDING)])


def record_result(client: MlflowClient, experiment: str, result: ResultRun, models: Sequence[str] = ()) -> str:
    """Record a result in a run of an experiment, linked to LoggedModels; returns the run's id.

    Inside `mlflow run` the opened run is used or refers to it; see `registry.catalog.opened_run`. A run that can't be
    filled is ended as failed.
    """
    if result.once and (known := _finished(client, experiment, result.once, result.tags[result.once])):
        return known
    opened = OpenedRun.find(client)
    if opened and opened.is_for(experiment, result.entry_point):
        client.update_run(opened.run_id, name=result.title)
        for name, value in {**result.tags, tags.BENCHMARK: result.entry_point}.items():
            client.set_tag(opened.run_id, name, value)
        _fill(client, opened.run_id, result, models)
        return opened.run_id
    its_tags = {**result.tags, tags.BENCHMARK: result.entry_point, **source_tags(result.command, result.who)}
    its_tags |= opened.parent_tags(experiment) if opened else {}
    run = client.create_run(experiment, start_time=result.began, tags=its_tags, run_name=result.title)
    run_id, status = str(run.info.run_id), "FAILED"
    try:
        _fill(client, run_id, result, models)
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status=status)
    if opened:
        opened.refer(client, result.title, experiment, run_id)
    return run_id


def _finished(client: MlflowClient, experiment: str, tag: str, value: str) -> str:
    """The finished run with this tag; empty if there is none."""
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'")
    return min((str(run.info.run_id) for run in found), default="")


def _fill(client: MlflowClient, run_id: str, result: ResultRun, models: Sequence[str]) -> None:
    from mlflow.entities import LoggedModelInput

    if models:
        client.log_inputs(run_id, models=[LoggedModelInput(model) for model in models])
    write(client, run_id, result.content, milliseconds(""))


def _points(content: RunContent, when: int, model_id: str | None, run_id: str) -> Iterator[Metric]:
    from mlflow.entities import Metric

    for name, value in tags.finite(content.metrics).items():
        yield Metric(name, value, when, 0, model_id=model_id, run_id=run_id)
    for name, curve in content.curves.items():
        for step, value in islice(curve.items(), _MAX_POINTS):
            if math.isfinite(value):
                yield Metric(name, float(value), when, step, model_id=model_id, run_id=run_id)

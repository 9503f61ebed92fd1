"""Versions, their figures, and how operations went."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image

from registry.answers import Listed
from registry.dashboard.figures.health import (
    changes_figure,
    costs_figure,
    durations_figure,
    labels_figure,
    ood_figure,
    operations_figure,
)
from registry.dashboard.figures.metrics import metric_figures, paired_figure
from registry.dashboard.health import DayOfAnswers, costs_of, days_of, health_of, traffic_of
from registry.dashboard.policy import view_of
from registry.dashboard.thumbnails import SIDE, thumbnails
from registry.dashboard.versions import ShownBound, VersionComparison, VersionFilter, bounds_of, rows_of
from registry.evidence.differences import MetricDifference
from registry.evidence.policy import load_policy
from registry.evidence.results import Metric
from registry.evidence.verdict import Check
from registry.integrity.operations import Operation
from registry.trials.days import AnswersOfDay
from registry.usecases.diff import VersionDiff
from registry.versions.changes import ManifestChanges
from tests.support.watched_trials import Fleet, Rates, stages_of, started

NOW = datetime(2026, 12, 1, tzinfo=UTC)


def operation(command: str, code: int, seconds: float, error: str = "") -> Operation:
    return Operation(
        format=1, model="m", command=command, started=NOW.isoformat(), seconds=seconds, exit_code=code, error=error
    )


def test_refusals_and_interrupts_are_no_failures() -> None:
    ends = [
        (0, ""),
        (0, ""),
        (8, ""),
        (3, "GateRefused"),
        (4, "ChannelMoved"),
        (5, "VersionNotFound"),
        (7, "StoreUnreachable"),
        (130, ""),
    ]
    (found,) = health_of([operation("promote", code, 1.0 + code, error) for code, error in ends])
    assert (found.done, found.refused, found.failed, found.interrupted, found.runs) == (3, 3, 1, 1, 8)
    assert found.share == 3 / 4
    assert found.low < 3 / 4 < found.high
    assert (found.seconds, found.slow_seconds) == (1.0, 9.0)
    assert found.errors == {"GateRefused": 1, "ChannelMoved": 1, "VersionNotFound": 1, "StoreUnreachable": 1}


def test_the_figures_of_operations_count_each_end() -> None:
    found = health_of([operation("promote", 0, 1.0), operation("promote", 3, 1.0), operation("verify", 6, 2.0)])
    counts = {trace.name: dict(zip(trace.y, trace.x, strict=True)) for trace in operations_figure(found).data}
    assert counts["done"] == {"promote": 1, "verify": 0}
    assert counts["failed"] == {"promote": 0, "verify": 1}
    assert counts["refused"] == {"promote": 1, "verify": 0}
    times = durations_figure(found)
    assert times is not None
    assert {trace.name: list(trace.x) for trace in times.data} == {"95th percentile": [1.0], "median": [1.0]}
    assert durations_figure(health_of([operation("verify", 6, 2.0)])) is None


def test_changes_are_counted_by_day() -> None:
    records = [record.model_copy(update={"when": NOW.isoformat()}) for record in started()]
    old = records[0].model_copy(update={"when": (NOW - timedelta(days=40)).isoformat()})
    odd = records[0].model_copy(update={"when": "some day"})
    found = days_of([*records, old, odd], NOW - timedelta(days=30))
    assert [(each.action, each.count) for each in found] == [("canary", 1), ("promote", 1)]
    assert sorted(trace.name for trace in changes_figure(found).data) == ["production: canary", "production: promote"]


def test_a_version_costs_what_its_largest_target_does() -> None:
    metrics = {
        ("adapter_memory_mb", target): Metric.of("adapter_memory_mb", size, n=1, target=target, unit="MB")
        for target, size in (("potato", 9.0), ("tomato", 11.0))
    }
    latency = Metric.of("latency_ms_p95", 50.0, n=200, low=48.0, high=53.0, unit="ms")
    measured = {"v1.0.0": {**metrics, ("latency_ms_p95", None): latency}, "v2.0.0": {}}
    (memory,) = costs_of(measured, "adapter_memory_mb")
    assert memory.metric.value == 11.0
    (line,) = costs_figure(costs_of(measured, "latency_ms_p95"), "ms").data
    assert (list(line.y), list(line.error_y.array), list(line.error_y.arrayminus)) == ([50.0], [3.0], [2.0])


def test_traffic_has_a_rate_for_each_version_of_a_stage() -> None:
    records = started(50)
    fleet = Fleet().asked(records, 4000, Rates(flagged=0.1))
    stages = list(zip(records[1:], stages_of(records, fleet.observations()), strict=True))
    found = {each.arm: each for each in traffic_of(stages)}
    assert found["stable"].share == 0
    assert found["canary"].share == pytest.approx(0.1, abs=0.02)
    assert found["canary"].outcomes["answer"] >= found["canary"].asked, "some units ask twice"


def test_answers_are_drawn_by_day_and_version() -> None:
    monday, tuesday = date(2026, 11, 30), date(2026, 12, 1)
    days = [
        DayOfAnswers("production", AnswersOfDay(day, version, answers, flagged, labels))
        for day, version, answers, flagged, labels in (
            (monday, "v1.0.0", 200, 10, {"blight": 50, "healthy": 150}),
            (tuesday, "v1.0.0", 100, 20, {"healthy": 100}),
            (tuesday, "v2.0.0", 50, 0, {}),
        )
    ]
    rates = {trace.name: dict(zip(trace.x, trace.y, strict=True)) for trace in ood_figure(days).data}
    assert rates == {
        "v1.0.0, production": {monday: pytest.approx(5), tuesday: pytest.approx(20)},
        "v2.0.0, production": {tuesday: 0},
    }
    mix = {bar.name: dict(zip(bar.y, bar.x, strict=True)) for bar in labels_figure(days).data}
    assert mix["blight"] == {"2026-11-30, v1.0.0": 25, "2026-12-01, v1.0.0": 0}
    assert mix["healthy"] == {"2026-11-30, v1.0.0": 75, "2026-12-01, v1.0.0": 100}


def accuracy(right: int, target: str | None = None) -> Metric:
    return Metric.proportion("accuracy", right, 200, target=target)


def compared(bounds: dict[tuple[str, str | None], list[ShownBound]]) -> VersionComparison:
    place = ("accuracy", "tomato")
    rows = rows_of(
        {place: accuracy(190, "tomato")}, {place: accuracy(194, "tomato")}, {place: accuracy(192, "tomato")}, bounds
    )
    difference = MetricDifference("accuracy", "tomato", 0.95, 0.97, 0.02, -0.01, 0.05, 200, 7, 3)
    diff = VersionDiff("v1.0.0", "v2.0.0", ManifestChanges((), (), 0, {}), (difference,), 200, ())
    return VersionComparison(diff, tuple(rows), "v1.5.0", "")


def test_metrics_are_drawn_with_intervals_stable_and_bounds() -> None:
    check = {"metric": "accuracy", "target": "tomato", "outcome": "pass", "reason": ""}
    bounds = bounds_of(
        [
            Check(rule={"metric": "accuracy", "min": 0.95}, bound=0.95, **check),
            Check(rule={"metric": "accuracy", "min": 0.93, "judge": "bound"}, bound=0.93, **check),
            Check(rule={"metric": "accuracy", "max_decrease": 0.03, "judge": "paired"}, bound=0.93, **check),
            Check(rule={}, **{**check, "metric": "past"}),
        ]
    )
    assert [bound.kind for bound in bounds["accuracy", "tomato"]] == ["goal", "gate", "stable"]
    figures = metric_figures(compared(bounds))
    assert list(figures) == ["share"]
    names = {trace.name: trace for trace in figures["share"].data}
    assert set(names) == {
        "v1.0.0", "v2.0.0", "stable v1.5.0", "goal of the measured value", "gate on the end of the interval",
        "stable with its allowance",
    }  # fmt: skip
    assert list(names["v2.0.0"].x) == [0.97]
    low = accuracy(194).low
    assert low is not None
    assert names["v2.0.0"].error_x.arrayminus[0] == pytest.approx(0.97 - low)
    assert list(names["goal of the measured value"].x) == [0.95]


def test_paired_differences_are_in_points() -> None:
    figure = paired_figure(compared({}))
    assert figure is not None
    (points,) = figure.data
    assert (list(points.y), list(points.x)) == (["accuracy (tomato)"], [2.0])
    assert "only the newer: 7; only the older: 3" in points.hovertext[0]


def test_the_filter_takes_words_channels_and_benchmarks() -> None:
    one = Listed("v1.0.0-ood", "For the farm", "", 1, 1, ("production",), (), None, ("accuracy",))
    gone = Listed("v0.9.0", "", "", 1, 1, (), (), None, (), forgotten=True)
    assert VersionFilter("FARM ood").takes(one)
    assert not VersionFilter("farm fish").takes(one)
    assert not VersionFilter(channels=("staging",)).takes(one)
    assert VersionFilter(channels=("staging", "production"), benchmarks=("accuracy",)).takes(one)
    assert not VersionFilter(benchmarks=("latency",)).takes(one)
    assert [VersionFilter(forgotten=shown).takes(gone) for shown in (False, True)] == [False, True]


def test_the_policy_is_told_rule_by_rule() -> None:
    found = view_of(load_policy())
    production = [each for each in found.rules if each.channel == "production"]
    assert production[0].asks == "stable in staging before"
    assert any(each.versions == "suffix ood" and "latency_ratio_p50" in each.asks for each in production)
    assert dict(found.plans)["default"].startswith("10%")
    assert any(band.startswith("accuracy: ") for band in found.bands)


def test_thumbnails_come_from_inside_the_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    digests = {}
    for name, place in {"in": folder / "in.png", "out": tmp_path / "out.png"}.items():
        Image.new("RGB", (400, 300), "green" if name == "in" else "red").save(place)
        digests[name] = hashlib.sha256(place.read_bytes()).hexdigest()
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    (folder / "text.png").write_text("no image")
    digests["text"] = hashlib.sha256(b"no image").hexdigest()
    found = thumbnails(folder, set(digests.values()))
    assert [each.name for each in found.values()] == ["in.png"]
    (tmp_path / "small.png").write_bytes(found[digests["in"]].png)
    with Image.open(tmp_path / "small.png") as small:
        assert max(small.size) == SIDE

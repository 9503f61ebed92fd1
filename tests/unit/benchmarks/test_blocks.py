"""Accuracy against the number of blocks, of versions with and without early exits."""

from pathlib import Path
from statistics import stdev

import pytest

from adapters.answer.loaded import LoadedVersion
from adapters.answer.loading import load_bundle
from adapters.fitting.image_folder import ImageFolder
from benchmarks.blocks import CURVE, depth
from registry.evidence.measure import Subject, find_benchmarks, measure
from registry.evidence.metrics import benchmark_of, check_metric
from registry.evidence.results import Measurement
from tests.support.bundles import manifest_of, read_bundle, write_bundle
from tests.support.exits import add_exits
from tests.support.random_images import write_images

ALL = ("low", "mid", "high")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    return ImageFolder(write_images(tmp_path_factory.mktemp("images"), count=3))


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> LoadedVersion:
    """Exits at blocks 2 and 4 of two targets, only at 4 of the third."""
    folder = write_bundle(tmp_path_factory.mktemp("bundle"))
    for target in ALL:
        add_exits(folder, target, (4,) if target == "high" else (2, 4))
    return load_bundle(read_bundle(folder))


@pytest.fixture(scope="module")
def measured(version: LoadedVersion, data: ImageFolder) -> Measurement:
    return depth(version, data)


def values(measured: Measurement, target: str | None = None) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in measured.metrics if metric.target == target}


def test_each_way_of_answering_has_its_accuracy_and_its_blocks(measured: Measurement) -> None:
    found = values(measured)
    ways = ("", "_full", "_dynamic", "_static")
    assert {f"depth_{what}{way}" for what in ("accuracy", "blocks") for way in ways} <= found.keys()
    assert found["depth_blocks_full"] == 6
    assert found["depth_blocks"] == found["depth_blocks_dynamic"], "they serve by their exits"
    assert 2 <= (found["depth_blocks_dynamic"] or 0) <= 6
    assert all(metric.low is not None and metric.high is not None for metric in measured.metrics)


def test_the_blocks_of_few_images_vary_as_a_sample_does(measured: Measurement) -> None:
    taken = [float(one.blocks or 0) for one in measured.outcomes if one.target == "low"]
    (low,) = [one for one in measured.metrics if (one.name, one.target) == ("depth_blocks", "low")]
    assert low.high is not None
    assert low.value is not None
    assert low.n == len(taken) > 1
    assert low.high - low.value == pytest.approx(1.959964 * stdev(taken) / len(taken) ** 0.5)
    assert stdev(taken) > 0


def test_a_block_where_a_target_has_no_exit_has_no_figure_of_all(measured: Measurement) -> None:
    assert "depth_accuracy_at_4" in values(measured)
    assert "depth_accuracy_at_2" not in values(measured)
    assert "depth_accuracy_at_2" in values(measured, "low")
    assert "depth_accuracy_at_2" not in values(measured, "high")


def test_the_steps_of_the_curve_are_blocks(measured: Measurement) -> None:
    assert list(measured.curves[CURVE]) == [4, 6]
    assert list(measured.curves[f"{CURVE}.low"]) == [2, 4, 6]
    assert measured.curves[f"{CURVE}.low"][2] == values(measured, "low")["depth_accuracy_at_2"]
    assert measured.curves[CURVE][6] == values(measured)["depth_accuracy_full"]


def test_a_version_cut_at_a_block_answers_as_measured_there(version: LoadedVersion, data: ImageFolder) -> None:
    from benchmarks.depth_ways import cut_at

    images = [image for image in data.split("test") if image.target == "low"]
    answers = cut_at(version, 2).predict([image.path for image in images], target="low")
    assert {answer.blocks_used for answer in answers} == {2}


def test_without_exits_only_full_depth_is_measured(tmp_path: Path, data: ImageFolder) -> None:
    found = depth(load_bundle(read_bundle(write_bundle(tmp_path))), data)
    assert set(values(found)) == {"depth_accuracy", "depth_blocks"}
    assert found.curves[CURVE] == {6: values(found)["depth_accuracy"]}
    assert "low" in str(found.notes["without_exits"])


def test_policies_may_ask_for_metrics_of_depth(measured: Measurement) -> None:
    assert {benchmark_of(check_metric(metric.name)) for metric in measured.metrics} == {"depth"}


def test_progress_counts_images_over_all_ways(version: LoadedVersion, data: ImageFolder) -> None:
    seen: list[tuple[int, int]] = []
    depth(version, data, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6 * len(data.split("test")), 6 * len(data.split("test")))


def test_depth_is_measured_only_when_it_is_asked_for() -> None:
    assert "depth" not in find_benchmarks()
    assert find_benchmarks(("depth",)) == {"depth": depth}


def test_a_long_benchmark_says_how_far_it_is(
    version: LoadedVersion, data: ImageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.evidence.measure.SAY_AFTER", 0.0)
    said: list[str] = []
    measure("depth", depth, Subject(manifest_of(write_bundle(tmp_path)), version), data, who="ann", say=said.append)
    images = len(data.split("test"))
    assert said == [f"depth: {images * way} of {images * 6}" for way in range(1, 6)], "the end needs no line"

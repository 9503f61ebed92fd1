"""The benchmarks on a real loaded version: random weights, real images on disk, real forward passes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapters.answer.loaded import LoadedVersion
from adapters.answer.loading import load_bundle
from adapters.fitting.image_folder import ImageFolder
from benchmarks.accuracy import accuracy
from benchmarks.blocks import depth
from benchmarks.latency import MIN_REPETITIONS, latency
from benchmarks.memory import memory
from benchmarks.ood import ood
from benchmarks.routing import routing
from registry.errors import ImageChanged
from registry.evidence.metrics import METRICS, RATIOS
from registry.evidence.results import BenchmarkRun, Evidence, Measurement
from tests.support.bundles import LABELS, read_bundle, write_bundle

BENCHMARKS = {"accuracy": accuracy, "routing": routing, "ood": ood, "latency": latency, "memory": memory}


def _write_images(folder: Path, count: int, random: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(random.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> LoadedVersion:
    return load_bundle(read_bundle(write_bundle(tmp_path_factory.mktemp("bundle"))))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    root = tmp_path_factory.mktemp("data")
    _write_data(root)
    return ImageFolder(root)


def _write_data(root: Path) -> None:
    random = np.random.default_rng(0)
    for target, labels in LABELS.items():
        for split in ("train", "test"):
            for label in labels:
                _write_images(root / target / split / label, 2, random)
    _write_images(root / "_ood" / "far", 6, random)


@pytest.fixture(scope="module")
def measured(version: LoadedVersion, data: ImageFolder) -> dict[str, Measurement]:
    return {name: benchmark(version, data) for name, benchmark in BENCHMARKS.items()}


@pytest.mark.acceptance
@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_benchmark_gives_evidence_that_can_be_stored(name: str, measured: dict[str, Measurement]) -> None:
    kept = Evidence.of(
        measured[name],
        BenchmarkRun(
            benchmark=name,
            model="digits",
            version="v1.0.0",
            content_sha256="a" * 64,
            device="cpu",
            runtime="torch-fp32",
            timestamp="2026-11-21T12:00:00Z",
            seconds=1.0,
            libraries={},
            who="tester",
        ),
    )
    assert Evidence.parse(kept.to_bytes(), name).metrics == measured[name].metrics
    assert all(metric.value is not None for metric in kept.metrics)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_policies_know_the_metrics_of_every_benchmark(name: str, measured: dict[str, Measurement]) -> None:
    assert {metric.name for metric in measured[name].metrics} == set(METRICS[name]) - RATIOS


@pytest.mark.parametrize(
    ("benchmark", "metric"),
    [
        ("accuracy", "accuracy"),
        ("ood", "ood_auroc"),
        ("ood", "ood_fpr95"),
        ("ood", "ood_near_auroc"),
        ("ood", "ood_near_fpr95"),
        ("memory", "adapter_memory_mb"),
    ],
)
def test_each_target_is_measured_by_itself(benchmark: str, metric: str, measured: dict[str, Measurement]) -> None:
    targets = {one.target for one in measured[benchmark].metrics if one.name == metric}
    assert targets == {None, "low", "mid", "high"}


def test_accuracy_is_the_share_of_right_predictions(
    version: LoadedVersion, data: ImageFolder, measured: dict[str, Measurement]
) -> None:
    images = data.split("test")
    answers = version.predict([image.path for image in images], target=[image.target for image in images])
    right = [answer.label == image.label for answer, image in zip(answers, images, strict=True)]
    aggregate = next(one for one in measured["accuracy"].metrics if one.name == "accuracy" and one.target is None)
    assert aggregate.value == np.mean(right)


def test_latency_quantiles_are_ordered_and_have_enough_samples(measured: dict[str, Measurement]) -> None:
    found = {one.name: one for one in measured["latency"].metrics}
    p50, p95, p99 = (found[f"latency_ms_{name}"].value for name in ("p50", "p95", "p99"))
    assert p50 is not None
    assert p95 is not None
    assert p99 is not None
    assert 0 < p50 <= p95 <= p99
    assert found["latency_ms_p95"].n >= MIN_REPETITIONS


@pytest.mark.acceptance
@pytest.mark.parametrize("name", ["accuracy", "routing", "ood"])
def test_measuring_again_gives_the_same_numbers(
    name: str, version: LoadedVersion, data: ImageFolder, measured: dict[str, Measurement]
) -> None:
    again = BENCHMARKS[name](version, data)
    assert (again.data_sha256, len(again.metrics)) == (measured[name].data_sha256, len(measured[name].metrics))
    for one, other in zip(again.metrics, measured[name].metrics, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-9)


def test_the_evidence_names_the_data_that_it_rests_on(data: ImageFolder, measured: dict[str, Measurement]) -> None:
    assert measured["accuracy"].data_sha256 == data.digest("test") == measured["latency"].data_sha256
    assert measured["ood"].data_sha256 != data.digest("test")
    assert measured["ood"].notes["far_images"] == 6


@pytest.mark.parametrize("name", ["accuracy", "routing", "ood", "latency", "depth"])
def test_no_benchmark_computes_on_an_image_that_was_exchanged(
    name: str, version: LoadedVersion, tmp_path: Path
) -> None:
    _write_data(tmp_path)
    data = ImageFolder(tmp_path)
    honest, other = data.split("test")[:2]
    honest.path.write_bytes(other.read())
    with pytest.raises(ImageChanged, match=f"{honest.path} has changed"):
        (BENCHMARKS | {"depth": depth})[name](version, data)


def test_no_score_is_of_a_far_image_that_was_exchanged(version: LoadedVersion, tmp_path: Path) -> None:
    _write_data(tmp_path)
    data = ImageFolder(tmp_path)
    far = data.ood("far")[-1]
    far.path.write_bytes(data.split("test")[0].read())
    with pytest.raises(ImageChanged, match=f"{far.path} has changed"):
        ood(version, data)

"""Two versions that were measured by several runtimes: one is chosen, told, and measured only where it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.compare import compare_versions
from benchmarks.parameters import CompareParameters, MeasuringParameters
from benchmarks.version_pair import COMPARED, VersionPair
from registry.api import Registry
from registry.errors import BadInput
from registry.evidence.outcomes import ImageOutcome, packed
from registry.evidence.results import BenchmarkRun, Evidence, Measurement, Metric
from registry.formats.canonical import sha256
from registry.usecases.diff import MeasuredBy
from registry.usecases.options import MeasureOptions
from tests.support.random_images import write_images
from tests.support.registries import create, open_registry

V1, V2 = "v1.0.0", "v2.0.0"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    opened = open_registry(tmp_path, store_url, model)
    opened.store.initialise()
    monkeypatch.setenv("ULORA_STORE", store_url)
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    create(opened, V1, tmp_path)
    create(opened, V2, tmp_path)
    return opened


def add(registry: Registry, version: str, runtime: str, right: int, day: int = 10, **more: str) -> None:
    """Evidence of all three benchmarks: of 4 images so many were answered right."""
    device, content = more.get("device", "cpu"), registry.manifest(version).content_sha256
    labels = ["one" if number < right else "two" for number in range(4)]
    outcomes = [
        ImageOutcome(image=f"{number:064x}", target="low", label="one", answered_label=label)
        for number, label in enumerate(labels)
    ]
    for name in COMPARED:
        run = BenchmarkRun(
            name, registry.model, version, content, device, runtime, f"2026-11-{day}T00:00:00Z", 1.0, {}, "tester"
        )
        metrics = (Metric.proportion("accuracy", right, 4, target="low"),) if name == "accuracy" else ()
        kept = packed(outcomes)
        measurement = Measurement(metrics, more.get("data", "d" * 64), "leaves", 4)
        registry.wiring.ledger.add(Evidence.of(measurement, run, sha256(kept)), kept)


def compared(
    registry: Registry, runtime: str = "", device: str = "", data: str = ""
) -> tuple[list[str], MeasuredBy, int]:
    """The accuracies by which two versions differ, what computed them, and how much was measured for it."""
    done: list[Evidence] = []
    on = MeasuringParameters(registry.model, data=data, device=device, runtime=runtime)
    found = compare_versions(CompareParameters(V1, V2, on), say=lambda sentence: None, on_done=done.append)
    rows = [f"{row.older} {row.newer}" for row in found.rows if row.metric == "accuracy" and row.target == "low"]
    return rows, found.by, len(done)


@pytest.mark.acceptance
def test_only_answers_of_one_runtime_and_device_are_compared(registry: Registry) -> None:
    for version, right in ((V1, 1), (V2, 2)):
        add(registry, version, "torch-fp32", right, day=10)
        add(registry, version, "torch-int8", right + 2, day=11)
        add(registry, version, "torch-fp32", 0, day=12, device="cuda:0")
    assert compared(registry) == (["0.75 1.0"], MeasuredBy("cpu", "torch-int8"), 0)
    assert compared(registry, "torch-fp32") == (["0.25 0.5"], MeasuredBy("cpu", "torch-fp32"), 0)
    assert compared(registry, device="cuda:0") == (["0.0 0.0"], MeasuredBy("cuda:0", "torch-fp32"), 0)


def test_a_runtime_that_computed_both_is_preferred(registry: Registry, tmp_path: Path) -> None:
    """Nothing is measured again, although the newest answers of the two are by different ones."""
    add(registry, V1, "torch-fp32", 1, day=10)
    add(registry, V2, "torch-fp32", 2, day=11)
    add(registry, V2, "torch-int8", 4, day=12)
    images = str(write_images(tmp_path / "images", count=1))
    assert compared(registry, data=images) == (["0.25 0.5"], MeasuredBy("cpu", "torch-fp32"), 0)
    said = VersionPair(registry, V1, V2).sentence(MeasuredBy("cpu", "torch-fp32"))
    assert said.endswith("by torch-fp32 on cpu are compared; what torch-int8 computed is not (--runtime chooses)")


@pytest.mark.acceptance
@pytest.mark.parametrize("asked", ["", "torch-fp32"], ids=["own", "asked"])
def test_versions_with_other_runtimes_of_their_own_meet(
    registry: Registry, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one of the newer version computes both; each benchmark of the older one runs once."""
    add(registry, V1, "torch-int8", 1)
    add(registry, V2, "torch-fp32", 2)
    ran: list[tuple[str, str, Sequence[str]]] = []

    def measure(self: Registry, version: str, options: MeasureOptions, **_: object) -> list[Evidence]:
        """Answers as a measurement does, by the runtime that is asked for."""
        ran.append((version, options.runtime or "none", options.only))
        add(registry, version, options.runtime or "none", 3, day=20)
        return [one for one in registry.evidence(version) if one.timestamp.startswith("2026-11-20")]

    monkeypatch.setattr(Registry, "measure", measure)
    rows, by, _ = compared(registry, asked, data=str(write_images(tmp_path / "images", count=1)))
    assert (rows, by) == (["0.75 0.5"], MeasuredBy("cpu", "torch-fp32"))
    assert ran == [(V1, "torch-fp32", tuple(sorted(COMPARED)))]


def test_a_version_that_falls_back_is_not_compared(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(registry, V2, "torch-int8", 2)

    def measure(self: Registry, version: str, options: MeasureOptions, **_: object) -> list[Evidence]:
        add(registry, version, "torch-fp32", 3, day=20)
        return [one for one in registry.evidence(version) if one.timestamp.startswith("2026-11-20")]

    monkeypatch.setattr(Registry, "measure", measure)
    with pytest.raises(BadInput, match=f"{V1} was computed by torch-fp32"):
        compared(registry, data=str(write_images(tmp_path / "images", count=1)))

"""`ulora diff` on versions that were really loaded and measured, in a real store."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from registry.api import Registry
from registry.errors import ImageChanged
from registry.evidence.outcomes import ImageOutcome, packed
from registry.evidence.results import BenchmarkRun, Evidence, Measurement
from registry.formats.canonical import sha256
from registry.store import layout
from registry.usecases.options import MeasureOptions
from tests.support.bundles import noise
from tests.support.registries import create, open_registry
from tests.support.run_ulora import complains, ulora

V1, V2 = "v1.0.0", "v2.0.0"
LABELS = ("zero", "one", "two", "three")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of the one target that small bundles have, all of them for tests."""
    for number, label in enumerate(LABELS * 3):
        folder = tmp_path / "images/low/test" / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number)).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Two versions with other weights, bound and not measured."""
    opened = open_registry(tmp_path, store_url, model)
    opened.store.initialise()
    monkeypatch.setenv("ULORA_MODEL", model)
    create(opened, V1, tmp_path)
    create(opened, V2, tmp_path)
    return opened


def measure(registry: Registry, version: str, images: Path, *only: str) -> None:
    registry.measure(version, MeasureOptions(only=only or ("accuracy",), data=images), offline=True)


def test_of_images_that_are_exchanged_nothing_is_kept(registry: Registry, images: Path) -> None:
    first, second = sorted(images.rglob("*.png"))[:2]

    def exchange(done: Evidence) -> None:
        first.write_bytes(second.read_bytes())

    options = MeasureOptions(only=("memory", "accuracy"), data=images)
    with pytest.raises(ImageChanged, match=f"{first.name} has changed"):
        registry.measure(V1, options, offline=True, on_done=exchange)
    assert [kept.benchmark for kept in registry.evidence(V1)] == ["memory"]


def test_the_outcomes_are_those_of_the_version(registry: Registry, images: Path) -> None:
    measure(registry, V1, images)
    (evidence,) = registry.evidence(V1)
    outcomes = registry.wiring.ledger.outcomes(evidence)
    loaded = registry.load(V1)
    by_digest = {layout.stem(path.name): path for path in images.rglob("*.png")}
    assert len(outcomes) == len(by_digest) == evidence.data.n
    paths = sorted(images.rglob("*.png"))
    answered = [loaded.predict(path.read_bytes(), target="low").label for path in paths]
    assert sorted(str(one.answered_label) for one in outcomes) == sorted(map(str, answered))
    right = sum(one.answered_label == one.label for one in outcomes)
    accuracy = evidence.metric("accuracy", "low")
    assert accuracy is not None
    assert accuracy.value == right / len(outcomes)


@pytest.mark.acceptance
def test_the_same_measurement_twice_keeps_the_same_outcomes(registry: Registry, images: Path) -> None:
    for _ in range(2):
        measure(registry, V1, images, "accuracy", "routing", "ood")
    kept = [info.key for info in registry.store.list(layout.outcomes(registry.model, V1))]
    assert len(kept) == 3
    assert {one.outcomes for one in registry.evidence(V1)} == {
        layout.stem(key).removesuffix(".jsonl.gz") for key in kept
    }


def test_a_diff_names_files_metrics_and_images(registry: Registry, images: Path) -> None:
    for version in (V1, V2):
        measure(registry, version, images)
    found = registry.diff(V1, V2)
    assert "adapters/low" in [each.name for each in found.manifest.components]
    assert found.compared == 12
    (accuracy,) = [each for each in found.metrics if (each.metric, each.target) == ("accuracy", "low")]
    assert accuracy.pairs == 12
    assert accuracy.older is not None
    assert accuracy.newer is not None
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert accuracy.low <= accuracy.newer - accuracy.older <= accuracy.high
    won = sum(each.right == "newer" for each in found.images)
    lost = sum(each.right == "older" for each in found.images)
    assert (won - lost) / 12 == pytest.approx(accuracy.newer - accuracy.older)

    back = registry.diff(V2, V1)
    assert {each.image for each in back.images} == {each.image for each in found.images}
    assert len(registry.diff(V1, V1).images) == 0


@pytest.mark.acceptance
def test_the_command_prints_it_and_writes_a_page(registry: Registry, images: Path, tmp_path: Path) -> None:
    assert "neither was measured" in ulora("diff", V1, V2).out
    for version in (V1, V2):
        measure(registry, version, images)
    said = ulora("diff", V1, V2, "--limit", "2").out
    assert "~ adapters/low (other weights" in said
    assert "on the same 12 images)" in said
    document = ulora("diff", V1, V2, "--json").document
    assert (document["older"], document["newer"], document["compared"]) == (V1, V2, 12)

    page = tmp_path / "diff.html"
    done = ulora("diff", V1, V2, "--html", page, "--data", images)
    shown = len(document["images"])
    assert f"shows {shown} image" in done.err
    assert len(re.findall(r'<img [^>]*src="data:image/png;base64,', page.read_text("utf-8"))) == shown
    complains(ulora("diff", V1, V2, "--html", tmp_path / "no/such/diff.html"), 2, "can't be written")
    complains(ulora("diff", V1, "v9.0.0"), 5, "v9.0.0")
    complains(ulora("diff", V1, V2, "--data", images), 2, "--html")


def test_the_newest_measurement_that_has_answers_counts(registry: Registry) -> None:
    def add(version: str, runtime: str, answered: str, day: int, *, keeps: bool = True) -> None:
        run = BenchmarkRun(
            "accuracy", registry.model, version, registry.manifest(version).content_sha256, "cpu", runtime,
            f"2026-11-{day}T00:00:00Z", 1.0, {}, "tester",
        )  # fmt: skip
        answers = packed([ImageOutcome(image="a" * 64, target="low", label="one", answered_label=answered)])
        evidence = Evidence.of(Measurement((), "d" * 64, "leaves", 1), run, sha256(answers) if keeps else "")
        registry.wiring.ledger.add(evidence, answers)

    for day, runtime in ((10, "first"), (20, "second"), (25, "third")):
        add(V1, runtime, "one", day, keeps=runtime != "third")
        add(V2, runtime, "two" if runtime == "second" else "one", day)
    found = registry.diff(V1, V2)
    assert (found.compared, [each.right for each in found.images]) == (1, ["older"])


@pytest.mark.acceptance
def test_other_data_are_not_compared(registry: Registry, images: Path, tmp_path: Path) -> None:
    measure(registry, V1, images)
    Image.fromarray(noise(99)).save(images / "low/test/one/99.png")
    measure(registry, V2, images)
    notes = {each.note for each in registry.diff(V1, V2).metrics}
    assert notes == {"measured on different data"}


@pytest.mark.acceptance
def test_damaged_outcomes_are_missing_ones(registry: Registry, images: Path) -> None:
    for version in (V1, V2):
        measure(registry, version, images)
    (info,) = registry.store.list(layout.outcomes(registry.model, V2))
    registry.store.overwrite(info.key, b"junk")
    found = registry.diff(V1, V2)
    assert (found.compared, found.images) == (0, ())
    assert json.loads(ulora("verify", "--all", "--json").out), "the other documents are read"
    assert info.key in ulora("verify", "--all").out

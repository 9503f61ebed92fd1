"""A fit gives a bundle that loads, is honest about held-out images, and is the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from adapters import bundle, ood, training
from adapters.backbones import TINY, ref_of_folder
from adapters.data import ImageFolder, LabelledImage
from adapters.loaded import LoadedVersion, load_bundle
from adapters.training import FitReport, fit, fit_target
from registry.bundles import read_bundle as read_as_registry
from registry.errors import BadInput
from tests.bundles import read_bundle

COLOURS = {
    ("apple", "rot"): (200, 40, 40),
    ("apple", "sound"): (40, 200, 40),
    ("pear", "rot"): (40, 40, 200),
    ("pear", "sound"): (200, 200, 40),
}
BACKBONE = TINY / "dinov3-tiny"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """Blotches of four colours: two targets with two labels each."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for (target, label), colour in COLOURS.items():
        for split, count in (("train", 24), ("val", 12), ("test", 8)):
            folder = root / target / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(random.normal(colour, 25, (28, 28, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return ImageFolder(root)


@pytest.fixture(scope="module")
def report(data: ImageFolder, tmp_path_factory: pytest.TempPathFactory) -> FitReport:
    return fit(data, BACKBONE, tmp_path_factory.mktemp("fit") / "bundle", epochs=1)


@pytest.fixture(scope="module")
def version(report: FitReport) -> LoadedVersion:
    return load_bundle(read_bundle(report.folder))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path: place.read_bytes() for path, place in read_bundle(folder).items()}


def test_the_fitted_version_answers_right_on_images_it_never_saw(version: LoadedVersion, data: ImageFolder) -> None:
    images = data.split("test")
    predictions = version.predict([image.path for image in images])
    right = [(p.target, p.label) == (i.target, i.label) for p, i in zip(predictions, images, strict=True)]
    assert sum(right) / len(right) > 0.9


def test_the_report_counts_what_was_fitted(report: FitReport, data: ImageFolder) -> None:
    assert report.images == {"apple": 48, "pear": 48}
    assert set(report.accuracy) == set(data.targets)
    assert report.routing_accuracy is not None
    assert report.skipped == ()


def test_recorded_outputs_are_reproduced(version: LoadedVersion, report: FitReport) -> None:
    version.self_test()
    for folder in ("router", "adapters/apple", "adapters/pear"):
        golden = load_file(report.folder / folder / bundle.GOLDEN)
        best = np.sort(golden["logits"], axis=1)
        assert 0 < len(best) <= training.GOLDENS
        assert (best[:, -1] - best[:, -2] > 0.1).all()


def test_thresholds_come_from_validation_images(version: LoadedVersion, report: FitReport, data: ImageFolder) -> None:
    images = [image.path for image in data.split("val") if image.target == "pear"]
    features = torch.from_numpy(version.features(images, "pear"))
    predicted = [version.labels["pear"].index(p.label) for p in version.predict(images, ["pear"] * len(images))]
    stored = {
        name: torch.from_numpy(a) for name, a in load_file(report.folder / "adapters/pear/ood.safetensors").items()
    }
    expected = ood.calibrate(
        features, torch.tensor(predicted), stored["means"], stored["whitening"], ood.FALSE_ALARM_RATE
    )
    assert torch.allclose(stored["thresholds"], expected, rtol=1e-3)


def test_the_registry_reads_the_bundle(report: FitReport) -> None:
    read = read_as_registry(report.folder)
    assert read.backbone == ref_of_folder(BACKBONE)
    assert {"adapters/apple", "adapters/pear", "router", "config"} <= read.components.keys()
    assert read.components["adapters/apple"].requires.keys() == {"backbone", "labels", "preprocessing"}
    assert {file.mode for file in read.files} == {"0644"}


def test_no_file_names_this_machine(report: FitReport) -> None:
    for path, data in bytes_of(report.folder).items():
        assert str(report.folder.parent).encode() not in data, path
        assert str(TINY).encode() not in data, path


def test_the_same_seed_gives_the_same_files_and_another_seed_others(
    report: FitReport, data: ImageFolder, tmp_path: Path
) -> None:
    again = fit(data, BACKBONE, tmp_path / "again", epochs=1)
    other = fit(data, BACKBONE, tmp_path / "other", epochs=1, seed=1, targets=["pear"])
    assert bytes_of(again.folder) == bytes_of(report.folder)
    weights = "adapters/pear/adapter_model.safetensors"
    assert bytes_of(other.folder)[weights] != bytes_of(report.folder)[weights]
    assert load_bundle(read_bundle(other.folder)).targets == ("pear",)


def test_fitting_one_target_on_wrong_labels_spoils_that_target_and_leaves_the_rest(
    report: FitReport, data: ImageFolder, tmp_path: Path
) -> None:
    folder = fit(data, BACKBONE, tmp_path / "bundle", epochs=1).folder

    def swapped(image: LabelledImage) -> str:
        return {"rot": "sound", "sound": "rot"}[image.label]

    fit_target(data, "pear", folder, epochs=1, labels_of=swapped)
    changed = {path for path, data in bytes_of(folder).items() if data != bytes_of(report.folder)[path]}
    assert {Path(path).parent.as_posix() for path in changed} == {"adapters/pear"}
    version = load_bundle(read_bundle(folder))
    version.self_test()
    images = [image for image in data.split("test") if image.target == "pear"]
    predictions = version.predict([image.path for image in images], ["pear"] * len(images))
    assert sum(p.label == i.label for p, i in zip(predictions, images, strict=True)) / len(images) < 0.1


def test_progress_is_told_per_target(data: ImageFolder, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    fit(data, BACKBONE, tmp_path / "bundle", epochs=1, targets=["pear"], progress=lambda *step: told.append(step))
    assert told == [("pear", 0, 1), ("pear", 1, 1), ("router", 0, 1), ("router", 1, 1)]


def test_a_folder_that_exists_is_not_overwritten(data: ImageFolder, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="exists already"):
        fit(data, BACKBONE, tmp_path)


def test_a_fit_that_fails_leaves_nothing(data: ImageFolder, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="1 labels"):
        fit(data, BACKBONE, tmp_path / "out" / "bundle", epochs=1, labels_of=lambda image: "same")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"rank": 0}, {"seed": -1}, {"false_alarm_rate": 1.0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float], data: ImageFolder, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="can't be meant"):
        fit(data, BACKBONE, tmp_path / "bundle", **wrong)


def test_a_label_without_training_images_is_refused(data: ImageFolder, tmp_path: Path) -> None:
    def only_in_validation(image: LabelledImage) -> str:
        return "new" if "val" in image.path.parts else image.label

    with pytest.raises(BadInput, match="no training image has the label 'new'"):
        fit(data, BACKBONE, tmp_path / "bundle", epochs=1, labels_of=only_in_validation)

"""Fitting one target again replaces that target and leaves the rest of the bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from adapters.answer.loading import load_bundle
from adapters.fitting.fit import FitReport
from adapters.fitting.image_folder import ImageFolder, LabelledImage
from adapters.fitting.refit import fit_target
from adapters.fitting.work_folder import replace_folder
from registry.errors import BadInput
from tests.support.bundles import read_bundle


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path: place.read_bytes() for path, place in read_bundle(folder).items()}


def test_wrong_labels_spoil_one_target_and_leave_the_rest(report: FitReport, data: ImageFolder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(report.folder, tmp_path / "bundle"))

    def swapped(image: LabelledImage) -> str:
        return {"rot": "sound", "sound": "rot"}[image.label]

    fit_target(data.relabelled(swapped), "pear", folder)
    changed = {path for path, content in bytes_of(folder).items() if content != bytes_of(report.folder)[path]}
    assert {Path(path).parent.as_posix() for path in changed} == {"adapters/pear", "config"}
    version = load_bundle(read_bundle(folder))
    version.self_test()
    images = [image for image in data.split("test") if image.target == "pear"]
    predictions = version.predict([image.path for image in images], target=["pear"] * len(images))
    assert sum(p.label == i.label for p, i in zip(predictions, images, strict=True)) / len(images) < 0.1
    assert list(tmp_path.iterdir()) == [folder]


def test_a_killed_replacement_of_a_bundle_is_undone(report: FitReport, data: ImageFolder, tmp_path: Path) -> None:
    shutil.copytree(report.folder, tmp_path / ".bundle.replaced")
    with pytest.raises(BadInput, match="no target 'plum'"):
        fit_target(data, "plum", tmp_path / "bundle")
    assert bytes_of(tmp_path / "bundle") == bytes_of(report.folder)
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]


def test_a_bundle_whose_replacement_does_not_come_stays(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "old").touch()
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "bundle", tmp_path / "nowhere")
    assert list(tmp_path.rglob("*")) == [tmp_path / "bundle", tmp_path / "bundle" / "old"]


def test_a_bundle_that_was_replaced_is_not_put_back(report: FitReport, data: ImageFolder, tmp_path: Path) -> None:
    shutil.copytree(report.folder, tmp_path / "bundle")
    (tmp_path / ".bundle.replaced").mkdir()
    with pytest.raises(BadInput, match="no target 'plum'"):
        fit_target(data, "plum", tmp_path / "bundle")
    assert bytes_of(tmp_path / "bundle") == bytes_of(report.folder)
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]

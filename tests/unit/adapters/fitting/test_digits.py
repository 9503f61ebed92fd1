"""The demo's images are the same each time, and no image is on two sides of a split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from adapters.fitting.folder_layout import SPLITS
from adapters.fitting.image_folder import ImageFolder
from registry.devstack import digits


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    root = tmp_path_factory.mktemp("digits")
    digits.write_digits(root)
    return ImageFolder(root)


@pytest.mark.acceptance
def test_there_are_five_thousand_digits_in_balanced_splits(data: ImageFolder) -> None:
    assert data.skipped == ()
    for split, per_digit in digits.SPLITS.items():
        counts = Counter((image.target, image.label) for image in data.split(split))
        assert set(counts.values()) == {per_digit}
        assert len(counts) == 10
    assert sum(len(data.split(split)) for split in SPLITS) == 5000


def test_targets_and_labels_are_the_ones_that_are_named(data: ImageFolder) -> None:
    assert {target: set(data.labels(target)) for target in data.targets} == {
        target: set(labels) for target, labels in digits.TARGETS.items()
    }


def test_splits_share_no_image(data: ImageFolder) -> None:
    seen = [image.sha256 for split in SPLITS for image in data.split(split)]
    assert len(seen) == len(set(seen))


def test_photo_crops_are_the_same_each_time(data: ImageFolder, tmp_path: Path) -> None:
    digits.write_photo_crops(tmp_path / "_ood" / "far")
    again = sorted((tmp_path / "_ood" / "far").iterdir())
    assert len(again) == len(data.ood("far")) >= 300
    assert all(ours.read() == path.read_bytes() for ours, path in zip(data.ood("far"), again, strict=True))

"""A folder of images splits the same way each time, and no image is on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.data import SPLITS, ImageFolder, _split_of
from registry.errors import BadInput
from tests.bundles import png


def write(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(seed))
    return path


@pytest.fixture
def leaves(tmp_path: Path) -> Path:
    for seed in range(60):
        label = ("blight", "healthy")[seed % 2]
        write(tmp_path / "tomato__leaf" / label / f"{seed}.png", seed)
    return tmp_path


def names(folder: Path, split: str) -> set[str]:
    return {image.path.name for image in ImageFolder(folder).split(split)}


def test_splits_are_disjoint_and_cover_everything(leaves: Path) -> None:
    folder = ImageFolder(leaves)
    digests = [image.sha256 for split in SPLITS for image in folder.split(split)]
    assert len(digests) == len(set(digests)) == 60
    assert len(folder.split("train")) > len(folder.split("test")) > 0


def test_a_split_does_not_depend_on_names_or_on_what_else_is_there(leaves: Path) -> None:
    before = {image.sha256 for image in ImageFolder(leaves).split("test")}
    for path in list((leaves / "tomato__leaf" / "blight").iterdir()):
        path.rename(path.with_name(f"renamed-{path.name}"))
    write(leaves / "tomato__leaf" / "blight" / "new.png", 1000)
    after = {image.sha256 for image in ImageFolder(leaves).split("test")}
    assert before <= after


@given(st.integers(0, 2**32 - 1))
def test_every_digest_belongs_to_one_split(value: int) -> None:
    assert _split_of(f"{value:08x}" + "0" * 56) in SPLITS


def test_a_folder_that_is_split_already_is_taken_as_it_is(tmp_path: Path) -> None:
    for seed, split in enumerate(SPLITS):
        write(tmp_path / "tomato" / split / "healthy" / f"{split}.png", seed)
    assert [names(tmp_path, split) for split in SPLITS] == [{"train.png"}, {"val.png"}, {"test.png"}]


def test_a_test_image_that_is_also_a_training_image_is_left_out_and_listed(tmp_path: Path) -> None:
    write(tmp_path / "tomato" / "train" / "healthy" / "a.png", 1)
    write(tmp_path / "tomato" / "test" / "healthy" / "b.png", 1)
    folder = ImageFolder(tmp_path)
    assert folder.split("test") == ()
    assert [skipped.path.name for skipped in folder.skipped] == ["b.png"]
    assert "a.png" in folder.skipped[0].reason


def test_a_damaged_image_is_left_out_and_listed(leaves: Path) -> None:
    (leaves / "tomato__leaf" / "blight" / "broken.jpg").write_bytes(b"not an image")
    folder = ImageFolder(leaves)
    assert sum(len(folder.split(split)) for split in SPLITS) == 60
    assert [skipped.path.name for skipped in folder.skipped] == ["broken.jpg"]


def test_the_digest_of_a_split_follows_its_content_and_not_its_place(leaves: Path, tmp_path: Path) -> None:
    before = ImageFolder(leaves).digest("train")
    moved = leaves.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert ImageFolder(moved).digest("train") == before
    image = ImageFolder(moved).split("train")[0]
    other = "healthy" if image.label == "blight" else "blight"
    image.path.rename(image.path.parent.with_name(other) / "relabelled.png")
    assert ImageFolder(moved).digest("train") != before


def test_ood_images_are_found_by_kind_and_are_no_target(leaves: Path) -> None:
    far = write(leaves / "_ood" / "far" / "photo.png", 5000)
    folder = ImageFolder(leaves)
    assert folder.ood("far") == (far,)
    assert folder.ood("near") == ()
    assert folder.targets == ("tomato__leaf",)
    assert folder.digest("far") != folder.digest("near")


def test_labels_are_those_of_the_training_images(leaves: Path) -> None:
    assert ImageFolder(leaves).labels("tomato__leaf") == ("blight", "healthy")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a folder"):
        ImageFolder(tmp_path / "gone")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no target"):
        ImageFolder(tmp_path)


def test_a_folder_without_a_usable_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tomato" / "healthy").mkdir(parents=True)
    (tmp_path / "tomato" / "healthy" / "a.png").write_bytes(b"?")
    with pytest.raises(BadInput, match="1 files were skipped"):
        ImageFolder(tmp_path).split("train")


def test_a_target_with_a_name_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Tomato Leaf").mkdir()
    with pytest.raises(BadInput, match="target"):
        ImageFolder(tmp_path)


def test_an_unknown_split_is_refused(leaves: Path) -> None:
    with pytest.raises(BadInput, match="no split"):
        ImageFolder(leaves).split("training")

"""A folder of images splits the same way each time, and no image is on both sides."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.backbone.images import MAX_BYTES
from adapters.fitting.data_report import DataReport, report_on
from adapters.fitting.folder_layout import SPLITS
from adapters.fitting.image_folder import ImageFolder, LabelledImage, _split_of
from registry.errors import BadInput, ImageChanged
from registry.formats import canonical
from tests.support.bundles import png


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


def test_a_split_depends_only_on_the_bytes_of_an_image(leaves: Path) -> None:
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


def test_a_test_image_that_is_a_training_image_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "tomato" / "train" / "healthy" / "a.png", 1)
    write(tmp_path / "tomato" / "test" / "healthy" / "b.png", 1)
    folder = ImageFolder(tmp_path)
    assert folder.split("test") == ()
    assert [(skipped.path.name, skipped.kind) for skipped in folder.skipped] == [("b.png", "leak")]
    assert "a.png" in folder.skipped[0].reason


def test_a_damaged_image_is_left_out_and_listed(leaves: Path) -> None:
    (leaves / "tomato__leaf" / "blight" / "broken.jpg").write_bytes(b"not an image")
    folder = ImageFolder(leaves)
    assert sum(len(folder.split(split)) for split in SPLITS) == 60
    assert [(skipped.path.name, skipped.kind) for skipped in folder.skipped] == [("broken.jpg", "damaged")]


def test_large_and_unreadable_files_are_left_out_and_listed(leaves: Path) -> None:
    with (leaves / "tomato__leaf" / "blight" / "huge.jpg").open("wb") as huge:
        huge.truncate(MAX_BYTES + 1)
    (leaves / "tomato__leaf" / "blight" / "loop.jpg").symlink_to("loop.jpg")
    (skipped,) = ImageFolder(leaves).skipped
    assert (skipped.path.name, skipped.kind) == ("huge.jpg", "damaged")


def test_the_digest_of_a_split_depends_on_its_content_only(leaves: Path, tmp_path: Path) -> None:
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
    assert [image.path for image in folder.ood("far")] == [far]
    assert folder.ood("near") == ()
    assert folder.targets == ("tomato__leaf",)
    assert folder.digest("far") != folder.digest("near")


def test_labels_are_those_of_the_training_images(leaves: Path) -> None:
    assert ImageFolder(leaves).labels("tomato__leaf") == ("blight", "healthy")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        ImageFolder(tmp_path / "gone")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no target"):
        ImageFolder(tmp_path)


def test_a_folder_without_a_usable_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tomato" / "healthy").mkdir(parents=True)
    (tmp_path / "tomato" / "healthy" / "a.png").write_bytes(b"?")
    with pytest.raises(BadInput, match="skipped: 1 file"):
        ImageFolder(tmp_path).split("train")


def test_a_targets_name_is_made_valid_and_shown(tmp_path: Path) -> None:
    write(tmp_path / "Tomato Leaf" / "blight" / "a.png", 1)
    folder = ImageFolder(tmp_path)
    assert folder.targets == ("tomato_leaf",)
    assert folder.layout.renamed == {"Tomato Leaf/blight": "tomato_leaf/blight"}


@pytest.mark.parametrize(
    "called",
    [
        {"val": "validation"},
        {"val": "valid", "train": "training"},
        {"train": "Train", "val": "Val", "test": "Test"},
        {"test": "TESTING"},
    ],
    ids=lambda called: " ".join(called.values()),
)
def test_splits_with_their_other_names_are_read_and_shown(called: dict[str, str], sound: Path) -> None:
    before = [names(sound, split) for split in SPLITS]
    for split, name in called.items():
        (sound / "tomato" / split).rename(sound / "tomato" / name)
    folder = ImageFolder(sound)
    assert [names(sound, split) for split in SPLITS] == before
    assert folder.layout.splits == {name: split for split, name in called.items()}
    assert folder.targets == ("tomato",)


def test_a_folder_beside_the_splits_is_named(sound: Path) -> None:
    write(sound / "tomato" / "drafts" / "a.png", 1000)
    with pytest.raises(BadInput, match="tomato/drafts is a folder beside the splits of tomato"):
        ImageFolder(sound).split("train")


def test_a_label_may_be_called_like_a_split(leaves: Path) -> None:
    (leaves / "tomato__leaf" / "blight").rename(leaves / "tomato__leaf" / "test")
    assert ImageFolder(leaves).labels("tomato__leaf") == ("healthy", "test")


def test_a_label_that_is_no_unicode_is_refused_by_name(sound: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(sound / "tomato" / "test") + b"/rust\xff"))
    write(odd / "a.png", 1000)
    with pytest.raises(BadInput, match="tomato/test/rust\ufffd is not UTF-8"):
        ImageFolder(sound).split("train")


def test_a_folder_that_cannot_be_read_is_named(leaves: Path) -> None:
    """Not for want of rights, which root has, but since the files' paths are too long for the system to follow."""
    write(leaves / "tomato__leaf" / "blight" / f"{'x' * 100}.png", 1000)
    detour = "/tomato__leaf/.."
    root = Path(str(leaves) + detour * ((4070 - len(str(leaves))) // len(detour)))
    with pytest.raises(BadInput, match="tomato__leaf/blight can't be read: File name too long"):
        ImageFolder(root).split("train")


def test_a_path_that_is_too_long_is_refused() -> None:
    with pytest.raises(BadInput, match="can't be read: File name too long"):
        ImageFolder("x" * 300)


def test_an_unknown_split_is_refused(leaves: Path) -> None:
    with pytest.raises(BadInput, match="not a split"):
        ImageFolder(leaves).split("training")


# --- what is odd about a folder --------------------------------------------------------------------------------------


def own_label(image: LabelledImage) -> str:
    return image.label


def report_of(folder: Path) -> DataReport:
    data = ImageFolder(folder)
    return report_on(data, data.targets)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Two labels, three images of each in every split."""
    for seed, (split, label) in enumerate((split, label) for split in SPLITS for label in ("blight", "healthy")):
        for number in range(3):
            write(tmp_path / "tomato" / split / label / f"{number}.png", 10 * seed + number)
    return tmp_path


def test_nothing_is_said_of_a_sound_folder(sound: Path) -> None:
    report = report_of(sound)
    assert report.warnings == ()
    assert report.counts == {"tomato": {label: {"train": 3, "val": 3, "test": 3} for label in ("blight", "healthy")}}


def test_damaged_images_are_counted_and_named_as_in_the_folder(sound: Path) -> None:
    (sound / "tomato" / "train" / "blight" / "broken.jpg").write_bytes(b"?")
    report = report_of(sound)
    assert report.skipped == {"damaged": ("tomato/train/blight/broken.jpg",)}
    assert report.warnings == ("damaged images, skipped: 1 (tomato/train/blight/broken.jpg)",)
    assert str(sound) not in str(report.document())


def test_leaks_contradictions_and_copies_are_distinguished(sound: Path) -> None:
    write(sound / "tomato" / "test" / "blight" / "leak.png", 0)
    write(sound / "tomato" / "train" / "healthy" / "contradiction.png", 0)
    write(sound / "tomato" / "train" / "blight" / "again.png", 0)
    report = report_of(sound)
    assert {kind: [Path(name).name for name in names] for kind, names in report.skipped.items()} == {
        "copy": ["again.png"],
        "leak": ["leak.png"],
        "contradiction": ["contradiction.png"],
    }
    assert len(report.warnings) == 3


def test_labels_of_very_different_size_are_told(sound: Path) -> None:
    for seed in range(100, 127):
        write(sound / "tomato" / "train" / "blight" / f"{seed}.png", seed)
    (warning,) = report_of(sound).warnings
    assert warning == "tomato: 10 times more training images of blight (30) than of healthy (3)"


def test_a_label_with_one_image_is_told(sound: Path) -> None:
    write(sound / "tomato" / "train" / "rust" / "only.png", 999)
    warnings = " ".join(report_of(sound).warnings)
    assert "tomato: only one training image: rust" in warnings
    assert "tomato: no validation image, these labels are not evaluated: rust" in warnings


def test_a_label_that_was_not_trained_is_told(sound: Path) -> None:
    write(sound / "tomato" / "test" / "rust" / "only.png", 999)
    assert "tomato: no training image, these labels are left out: rust" in report_of(sound).warnings


def test_files_with_other_endings_are_counted(sound: Path) -> None:
    for name in (b"a.tif", b"b.TIF", b"notes.txt", b"odd.\xff"):
        (sound / "tomato" / "train" / "blight" / os.fsdecode(name)).write_bytes(b"?")
    report = report_of(sound)
    assert report.ignored == {".tif": 2, ".txt": 1, ".\ufffd": 1}
    assert report.warnings == ("files with other endings were ignored: 2 .tif, 1 .txt, 1 .\ufffd",)


def test_a_name_that_is_no_unicode_can_be_reported(sound: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(sound / "tomato" / "train" / "blight") + b"/\xff.jpg"))
    odd.write_bytes(b"?")
    assert canonical.encode(report_of(sound).document())


def test_an_image_gives_the_bytes_that_were_hashed_or_none(leaves: Path) -> None:
    image, other = ImageFolder(leaves).split("test")[:2]
    assert canonical.sha256(image.read()) == image.sha256
    image.path.write_bytes(other.read())
    with pytest.raises(ImageChanged, match=f"{image.path.name} has changed since"):
        image.read()
    image.path.unlink()
    with pytest.raises(ImageChanged, match="can't be read any more"):
        image.read()


def test_nothing_is_computed_on_an_image_that_has_become_a_pipe(leaves: Path) -> None:
    folder = ImageFolder(leaves)
    image, far = folder.split("test")[0], write(leaves / "_ood" / "far" / "photo.png", 5000)
    (outside,) = folder.ood("far")
    for path in (image.path, far):
        path.unlink()
        os.mkfifo(path)
    for one in (image, outside):
        with pytest.raises(ImageChanged, match="it is not a regular file"):
            one.read()


def test_a_file_that_becomes_a_pipe_meanwhile_is_damaged(leaves: Path) -> None:
    folder = ImageFolder(leaves)  # it has found the names, and read no image
    path = next((leaves / "tomato__leaf" / "blight").iterdir())
    path.unlink()
    os.mkfifo(path)
    assert [(each.path, each.kind) for each in folder.skipped] == [(path, "damaged")]
    assert "it is not a regular file" in folder.skipped[0].reason


def test_a_link_to_a_folder_around_the_data_is_not_followed(leaves: Path) -> None:
    before = report_on(ImageFolder(leaves), ["tomato__leaf"])
    for number, around in enumerate((leaves, leaves.parent, Path("/"))):
        (leaves / "tomato__leaf" / f"link-{number}").symlink_to(around)
    assert report_on(ImageFolder(leaves), ["tomato__leaf"]) == before


def test_a_line_end_in_a_name_begins_no_line(leaves: Path) -> None:
    (leaves / "tomato__leaf" / "blight" / "a\nunfit: all.png").write_bytes(b"damaged")
    report = report_on(ImageFolder(leaves), ["tomato__leaf"])
    (warning,) = [each for each in report.warnings if "damaged" in each]
    assert warning.splitlines() == [warning]
    assert report.skipped["damaged"] == ("tomato__leaf/blight/a\nunfit: all.png",)

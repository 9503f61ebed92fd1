"""Folders of images as people have them are read as they mean it, or refused with the way out; nothing is guessed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.fitting.data_check import propose_names
from adapters.fitting.data_report import report_on
from adapters.fitting.folder_layout import SPLITS
from adapters.fitting.folder_names import Meaning, Proposal, read_names, valid_target, write_names
from adapters.fitting.image_folder import ImageFolder
from registry.errors import BadInput
from registry.names import check_target
from tests.support import image_layouts as layouts
from tests.support.image_layouts import KNOWN, write_files

CORN = "corn_maize/Common_rust_"
READ = {
    "splits_on_top": {CORN: (2, 2, 2), "tomato/Late_blight": (2, 2, 2), "tomato/healthy": (2, 2, 2)},
    "flat": {"cherry_including_sour/healthy": 2, "pepper_bell/healthy": 2, "tomato/Late_blight": 2},
    "capitals": {"potato/Early_blight": (2, 2, 0)},
    "crops_below_splits": {"tomato/blight": (2, 0, 2), "tomato/healthy": (2, 0, 2)},
    "mixed": {"apple/scab": 2, "tomato/blight": 2, "tomato/healthy": 2},
    "nested": {"tomato/blight": 3, "tomato/healthy": 2},
    "archive": {"tomato/blight": 2, "tomato/healthy": 2},
    "accents": {"coffee/rouill\u00e9": (2, 2, 0)},
    "reviewed": {"tomato/blight": 2},
}
"""Layout -> target/label -> images of each split, or of all where folders do not split them."""


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_layout_is_read_as_people_mean_it(name: str, tmp_path: Path) -> None:
    KNOWN[name](tmp_path)
    data = ImageFolder(tmp_path)
    found: dict[str, list[int]] = {}
    for place, split in enumerate(SPLITS):
        for image in data.split(split):
            found.setdefault(f"{image.target}/{image.label}", [0, 0, 0])[place] += 1
    expected = READ[name]
    assert {
        meaning: tuple(n) if isinstance(expected.get(meaning), tuple) else sum(n) for meaning, n in found.items()
    } == expected
    assert data.skipped == (), "nothing is called damaged, or a copy"


def test_what_the_rule_made_of_names_is_shown(tmp_path: Path) -> None:
    layouts.splits_on_top(tmp_path)
    warnings = warnings_of(tmp_path)
    assert "read as splits: valid as val" in warnings
    assert f"Corn_(maize)___Common_rust_ as {CORN}" in " ".join(warnings)


def test_images_in_wrong_places_are_counted_and_named(tmp_path: Path) -> None:
    layouts.nested(tmp_path)
    assert set(warnings_of(tmp_path)) >= {
        "images that lie beside the folders of labels, not in one, left out: 5 (5 in tomato)",
        "images in folders inside those of labels, left out: 4 (4 in tomato/blight/phone)",
    }


def test_folders_that_were_put_aside_are_counted_and_named(tmp_path: Path) -> None:
    layouts.reviewed(tmp_path)
    (warning,) = [each for each in warnings_of(tmp_path) if "begin with _" in each]
    assert warning.endswith("left out: 4 (1 in _old/tomato/blight, 3 in tomato/_unsure)")


def test_files_of_operating_systems_are_no_damaged_images(tmp_path: Path) -> None:
    layouts.archive(tmp_path)
    data = ImageFolder(tmp_path)
    assert (data.system_files, data.ignored, data.skipped) == (5, {}, ())


def test_test_images_without_labels_are_counted_and_named(tmp_path: Path) -> None:
    write_files(tmp_path, {"train/Apple___scab": 2, "valid/Apple___scab": 2, "test": 3})
    assert "not in one, left out: 3 (3 in test)" in " ".join(warnings_of(tmp_path))


def test_crops_that_are_read_as_one_are_shown(tmp_path: Path) -> None:
    layouts.mixed(tmp_path)
    assert "Tomato and tomato are one target, tomato" in warnings_of(tmp_path)


@pytest.mark.parametrize(
    ("write", "says", "hints"),
    [
        (layouts.several_sets, "holds no crops", ["color or", "grayscale or", "segmented"]),
        (layouts.set_in_a_set, "no target folder", ["Plants(Augmented)/Plants(Augmented)"]),
        (layouts.plantdoc, "Apple Scab Leaf, Apple leaf, Corn Gray leaf spot", ["--rename names.toml"]),
        (layouts.one_crop, "do not say of which crop: Blast, Tungro", ["--rename names.toml"]),
        (layouts.other_script, "\u756a\u8304/blight", ["--rename names.toml"]),
        (layouts.with_unlabelled_tests, "do not say of which crop: test", ["--rename names.toml"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_would_be_a_guess_is_refused_with_a_way_out(
    write: Callable[[Path], None], says: str, hints: list[str], tmp_path: Path
) -> None:
    write(tmp_path)
    with pytest.raises(BadInput) as refused:
        ImageFolder(tmp_path)
    assert says in str(refused.value)
    assert all(hint in refused.value.hint for hint in hints), refused.value.hint


def test_the_folder_that_a_hint_names_is_read(tmp_path: Path) -> None:
    layouts.set_in_a_set(tmp_path)
    with pytest.raises(BadInput) as refused:
        ImageFolder(tmp_path)
    assert ImageFolder(refused.value.hint.rpartition(": ")[2]).targets == ("apple",)


def test_a_folder_beside_splits_at_the_top_is_refused(tmp_path: Path) -> None:
    layouts.splits_on_top(tmp_path)
    write_files(tmp_path, {"drafts/Tomato___healthy": 1}, first=500)
    with pytest.raises(BadInput, match="drafts is a folder beside the splits"):
        ImageFolder(tmp_path)


@given(st.text())
def test_the_rule_gives_a_valid_target_or_none(name: str) -> None:
    target = valid_target(name)
    assert target == "" or check_target(target) == target
    assert valid_target(target) == target


# --- the file of names -----------------------------------------------------------------------------------------------


def test_a_proposed_file_is_read_and_can_be_corrected(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "names.toml"
    layouts.plantdoc(data)
    assert propose_names(data, file) == 3
    assert ImageFolder(data, file).targets == ("apple", "corn")
    text = file.read_text()
    assert '"Apple leaf" = "apple/leaf"\n' in text
    assert "Guesses" in text
    file.write_text(text.replace('"apple/leaf"', '"apple/healthy"').replace('"corn/Gray leaf spot"', '""'))
    corrected = ImageFolder(data, file)
    assert corrected.labels("apple") == ("Scab Leaf", "healthy")
    assert "images that the file of names leaves out: 4 (2 in train/Corn Gray leaf spot" in " ".join(
        report_on(corrected, corrected.targets).warnings
    )


def test_folders_of_several_sets_are_proposed_with_their_crops(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "names.toml"
    layouts.several_sets(data)
    assert propose_names(data, file) == 3
    assert '"color/Tomato___healthy" = "tomato/healthy"\n' in file.read_text()


def test_a_file_of_names_brings_in_images_that_lie_elsewhere(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "names.toml"
    layouts.nested(data)
    assert propose_names(data, file) == 0
    assert '"tomato/blight/phone" = ""\n' in file.read_text(), "left out, as by the rule"
    before = sum(len(ImageFolder(data, file).split(split)) for split in SPLITS)
    file.write_text('"tomato/blight/phone" = "tomato/blight"\n"plum" = "plum/rot"\n')
    assert sum(len(ImageFolder(data, file).split(split)) for split in SPLITS) == before + 4
    assert "the file of names has folders without images here: plum" in warnings_of(data, file)


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), unique=True))
def test_any_folders_name_can_be_in_the_file(tmp_path_factory: pytest.TempPathFactory, folders: list[str]) -> None:
    file = tmp_path_factory.mktemp("names") / "names.toml"
    write_names(file, [Proposal(folder, Meaning("tomato", "blight"), None) for folder in folders])
    assert set(read_names(file).values()) <= {Meaning("tomato", "blight")}
    assert len(read_names(file)) <= len(folders)


@pytest.mark.parametrize(
    "text",
    ['"a" = "Tomato/blight"', '"a" = "tomato"', '"a" = "tomato/"', '"a" = 7', "[a]\nb = 1", "a =", '"a" = "t/b"\n' * 2],
)
def test_an_invalid_file_of_names_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "names.toml").write_text(text)
    with pytest.raises(BadInput, match=r"names\.toml"):
        read_names(tmp_path / "names.toml")


def test_a_large_or_missing_file_of_names_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate(5 * 1024 * 1024)
    for name in ("large.toml", "missing.toml"):
        with pytest.raises(BadInput, match=name):
            read_names(tmp_path / name)


def warnings_of(folder: Path, rename: Path | None = None) -> tuple[str, ...]:
    data = ImageFolder(folder, rename)
    return report_on(data, data.targets).warnings

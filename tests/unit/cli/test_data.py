"""`ulora data check`: what it says of a folder, and the files that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import image_layouts as layouts
from tests.support.coloured_images import write_blotches
from tests.support.run_ulora import complains, ulora

NO_NUMBERS = "format: 1\nchannels: {staging: {}, production: {}}\n"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_blotches(tmp_path / "images")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_counts_and_says_what_the_gates_will_miss(images: Path) -> None:
    done = ulora("data", "check", "images")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split() == ["TARGET", "LABELS", "TRAIN", "VAL", "TEST"]
    assert lines[1].split() == ["apple", "2", "16", "16", "8"]
    assert lines[2].split() == ["rot", "8", "8", "4"]
    assert "out-of-distribution: 0 far" in done.out
    assert (
        "pear has 8 test images, and production needs 300 for ood_false_alarm_rate: 292 more in test of pear"
        in done.out
    )
    assert "--ood-from photos" in done.out
    assert lines[-1] == "next: ulora fit --data images --backbone dinov2-tiny --out bundle/"


def test_the_json_answer_has_it_all(images: Path) -> None:
    document = ulora("data", "check", "images", "--json").document
    assert document["targets"] == ["apple", "pear"]
    assert document["images"]["pear"]["rot"] == {"train": 8, "val": 8, "test": 4}
    (far,) = [one for one in document["gates"] if one["images"] == "far"]
    assert (far["n"], far["needs"], far["channel"]) == (0, 100, "production")
    assert far["message"].startswith("_ood/far has 0 images")


def test_the_policy_in_force_is_asked(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("ulora.toml").write_text('policy = "policy.yaml"')
    Path("policy.yaml").write_text(NO_NUMBERS)
    assert ulora("data", "check", "images", "--json").document["gates"] == []
    Path("policy.yaml").write_text("format: 2")
    done = ulora("data", "check", "images")
    assert done.code == 0
    assert "note: what the gates need is not known: policy policy.yaml" in done.err


@pytest.mark.parametrize("source", ["photos", "noise", "others"])
def test_far_images_are_made_where_there_are_none(source: str, images: Path) -> None:
    layouts.write_files(Path("others"), {"streets": 100})
    done = ulora("data", "check", "images", "--ood-from", source, "--json")
    assert done.code == 0, done
    assert done.document["ood"]["far"] >= 100
    assert "images/_ood/far now has images that show none of the targets" in done.err
    assert [one for one in done.document["gates"] if one["images"] == "far"] == []
    again = ulora("data", "check", "images", "--ood-from", source)
    assert (again.code, again.err.partition(" holds files already")[0]) == (0, "note: images/_ood/far")


def test_a_file_of_names_is_written_once_and_then_read(tmp_path: Path) -> None:
    layouts.plantdoc(Path("PlantDoc"))
    complains(ulora("data", "check", "PlantDoc"), 2, "do not say of which crop", "--rename names.toml")
    done = ulora("data", "check", "PlantDoc", "--rename", "names.toml", "--json")
    assert done.code == 0
    assert "wrote names.toml: what each folder shows, 3 of them by a guess" in done.err
    assert done.document["targets"] == ["apple", "corn"]
    Path("names.toml").write_text(Path("names.toml").read_text().replace('"corn/', '"maize/'))
    again = ulora("data", "check", "PlantDoc", "--rename", "names.toml", "--json")
    assert (again.err, again.document["targets"]) == ("", ["apple", "maize"])


def test_a_target_that_cannot_be_fitted_is_named(tmp_path: Path) -> None:
    layouts.splits_on_top(Path("plants"))
    done = ulora("data", "check", "plants")
    assert "- corn_maize can't be fitted: 1 label with training images" in done.out
    assert "next:" not in done.out
    assert ulora("data", "check", "plants", "--json").document["unfit"] == {
        "corn_maize": "1 label with training images"
    }


@pytest.mark.parametrize("words", [["nowhere"], ["nowhere", "--rename", "x.toml"], ["nowhere", "--ood-from", "noise"]])
def test_a_folder_that_is_not_there_is_refused(words: list[str]) -> None:
    complains(ulora("data", "check", *words), 2, "no such folder: nowhere")
    assert list(Path().iterdir()) == []


def test_nothing_is_made_in_a_folder_without_images(tmp_path: Path) -> None:
    Path("empty").mkdir()
    complains(ulora("data", "check", "empty", "--ood-from", "noise"), 2, "no target folder")
    assert list(Path("empty").iterdir()) == []

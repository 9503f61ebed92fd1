"""Far images can be made where a folder has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.fitting.data_check import MAX_FAR, NOISE, copy_images, make_far, write_noise
from adapters.fitting.image_folder import ImageFolder
from registry.errors import BadInput
from tests.support.image_layouts import write_files


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_files(tmp_path / "data", {"tomato/blight": 3, "tomato/healthy": 3})


def test_noise_gives_enough_images_for_the_default_policy(data: Path) -> None:
    make_far(data, write_noise)
    far = ImageFolder(data).ood("far")
    assert len({image.sha256 for image in far}) == len(far) == NOISE >= 100


def test_images_of_a_folder_are_copied_without_the_datas_own(data: Path, tmp_path: Path) -> None:
    others = write_files(tmp_path / "others", {"street": 3, "street/deeper": 2}, first=500)
    (others / "same.jpg").write_bytes((data / "tomato/blight/0000.jpg").read_bytes())
    (others / "broken.jpg").write_bytes(b"?")
    (others / "Thumbs.db").write_bytes(b"?")
    make_far(data, lambda folder: copy_images(folder, others, data))
    copied = {image.read() for image in ImageFolder(data).ood("far")}
    assert copied == {path.read_bytes() for path in others.rglob("0*.jpg")}


def test_of_many_images_some_from_everywhere_are_copied(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_FAR == 1000
    monkeypatch.setattr("adapters.fitting.data_check.MAX_FAR", 3)
    others = write_files(tmp_path / "others", {"a": 4, "b": 2}, first=500)
    make_far(data, lambda folder: copy_images(folder, others, data))
    first, *_, last = sorted(others.rglob("*.jpg"))
    copied = [image.read() for image in ImageFolder(data).ood("far")]
    assert len(copied) == 3
    assert copied[0] == first.read_bytes()
    assert last.parent.name == "b"


@pytest.mark.parametrize("source", ["nowhere", "empty", "data", "data/tomato"])
def test_a_source_without_other_images_is_refused(source: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput):
        make_far(data, lambda folder: copy_images(folder, tmp_path / source, data))
    assert ImageFolder(data).ood("far") == ()
    assert list((data / "_ood").iterdir()) == [], "nothing half made is left"


def test_far_images_that_are_there_are_kept(data: Path) -> None:
    write_files(data, {"_ood/far": 1}, first=500)
    assert not make_far(data, write_noise)
    assert len(ImageFolder(data).ood("far")) == 1

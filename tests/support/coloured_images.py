"""Small folders of images whose labels are easy to learn: noise around a colour of its own for each label."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {
    ("apple", "rot"): (200, 40, 40),
    ("apple", "sound"): (40, 200, 40),
    ("pear", "rot"): (40, 40, 200),
    ("pear", "sound"): (200, 200, 40),
}
"""Target and label, and their colour."""

COUNTS = {"train": 8, "val": 8, "test": 4}


def write_unsplit(root: Path, count: int) -> Path:
    """Write so many images of each label in the layout `target/label/*.jpg`, and return `root`."""
    random = np.random.default_rng(0)
    for (target, label), colour in COLOURS.items():
        folder = root / target / label
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(random.normal(colour, 25, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=92)
    return root


def write_blotches(root: Path, counts: Mapping[str, int] = COUNTS) -> Path:
    """Write so many images of each label and split, in the layout `target/split/label/*.png`, and return `root`."""
    random = np.random.default_rng(0)
    for (target, label), colour in COLOURS.items():
        for split, count in counts.items():
            folder = root / target / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(random.normal(colour, 25, (28, 28, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root

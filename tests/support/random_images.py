"""Folders of small random images for tests that need files to measure on, not their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.bundles import LABELS


def write_images(root: Path, count: int = 2, splits: Sequence[str] = ("train", "test")) -> Path:
    """Write `count` images for each label of `LABELS` and split, and a few of nothing known."""
    random = np.random.default_rng(0)
    folders = [root / target / split / label for target in LABELS for split in splits for label in LABELS[target]]
    for folder in [*folders, root / "_ood" / "far"]:
        folder.mkdir(parents=True)
        for number in range(count):
            Image.fromarray(random.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return root

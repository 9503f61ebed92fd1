"""Look at a folder of images before anything is fitted to it or measured on it, and make what it lacks.

The entry point group `ulora.datachecks` names this module. It imports no torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from adapters.backbone.images import read_file
from adapters.fitting.data_report import DataReport, report_on
from adapters.fitting.folder_layout import proposals
from adapters.fitting.folder_names import write_names
from adapters.fitting.folder_tree import OOD_FOLDER, images_below, read_tree
from adapters.fitting.image_folder import ImageFolder, valid_images
from registry.errors import BadInput, disk_errors, no_folder
from registry.formats import canonical

MAX_FAR = 1000
"""How many far images are made at most; `ulora measure` uses no more."""
NOISE = 300
_SIDE = 64  # of an image of noise, in pixels
_SEED = 2026


def check(data: ImageFolder) -> DataReport:
    """Report on a folder of images.

    Raises:
        BadInput: when it holds no usable image.
    """
    return report_on(data, data.targets)


def propose_names(folder: Path, file: Path) -> int:
    """Write a file of names for a folder of images; return how many of them are guesses.

    Raises:
        BadInput: when the folder can't be read, or a folder beside splits is no split.
        DiskFull, BadSetting: when the file can't be written.
    """
    found = proposals(folder, read_tree(folder))
    write_names(file, found)
    return sum(one.guess is not None for one in found)


def make_far(data: Path, write: Callable[[Path], object]) -> bool:
    """Make `data/_ood/far`, complete or not at all; False if it holds files already, which stay.

    Args:
        write: writes images into the folder that it gets.

    Raises:
        DiskFull, BadSetting: when it can't be written.
    """
    far, new = data / OOD_FOLDER / "far", data / OOD_FOLDER / ".far.new"
    with disk_errors(far, hint="make the folder of images writable, or copy it"):
        if far.exists() and any(far.iterdir()):
            return False
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        try:
            write(new)
            new.replace(far)  # an empty folder may be there
            return True
        finally:
            shutil.rmtree(new, ignore_errors=True)


def write_noise(folder: Path) -> None:
    """Write images of random pixels: single ones, smooth patches, and stripes. Detectors tell them apart easily."""
    random = np.random.default_rng(_SEED)
    for number in range(NOISE):
        cells = (_SIDE, int(random.integers(2, 12)), 1)[number % 3]
        small = random.integers(0, 256, (int(random.integers(2, 24)) if cells == 1 else cells, cells, 3), np.uint8)
        Image.fromarray(small).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(folder / f"noise-{number:03d}.png")


def copy_images(folder: Path, source: Path, data: Path) -> None:
    """Copy up to `MAX_FAR` images from a folder and those in it, chosen evenly over their paths. Images that the data
    has too are not taken.

    Raises:
        BadInput: when the source holds no usable image, or can't be read.
        BadImage: when an image file of the data can't be read.
        ImageChanged: when one of its files changed meanwhile.
    """
    if not source.is_dir():
        raise BadInput(no_folder(source), hint="photos, noise, or a folder of images that show no target")
    if data.resolve() in (source.resolve(), *source.resolve().parents):
        raise BadInput(f"{source} is part of {data}: its images show the targets", hint="give a folder of other images")
    own = {canonical.sha256(read_file(path)) for path in images_below(data)}
    found = [image for image in valid_images(images_below(source)) if image.sha256 not in own]
    if not found:
        raise BadInput(f"{source} holds no usable image that {data} has not", hint="give a folder of other images")
    step = max(1, -(-len(found) // MAX_FAR))
    for number, image in enumerate(found[::step]):
        (folder / f"{number:04d}{image.path.suffix.lower()}").write_bytes(image.read())

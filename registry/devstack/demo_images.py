"""The demo's images, and what its traffic shows: also photographs in mist, which the first release does not know.

In mist every pixel is mixed with white. One half of the later releases' training images are like that, and none of the
test images, so the gates know nothing of it: only the traffic does.
"""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

from registry.devstack.digits import FEW, write_digits, write_photo_crops
from registry.devstack.traffic import Question
from registry.errors import disk_errors
from registry.trials.receipts import OOD_LABEL

_FAR_CROPS = 12
_IN_MIST, _OF_SOMETHING_ELSE = 5, 10
"""Every so many questions one shows a photograph in mist, or nothing that a release knows."""
_WHITE, _MIST = 255, 0.3
_TRAINED = ("train", "val")


def write_images(data: Path | None, folder: Path) -> None:
    """Write the digits; or link the user's images, and write out-of-distribution ones beside them unless they have
    some."""
    if data is None:
        write_digits(folder, FEW, _FAR_CROPS)
        return
    folder.mkdir()
    for child in sorted(data.resolve().iterdir()):
        if child.is_dir():
            (folder / child.name).symlink_to(child)
    if not (folder / "_ood").exists():
        write_photo_crops(folder / "_ood" / "far")


def write_with_mist(images: Any, folder: Path) -> None:
    """Write images again, split as they are, every second one of those for training in mist.

    Args:
        images: what `registry.evidence.measure.open_data` returned.

    Raises:
        DiskFull, BadSetting: the folder can't be written.
    """
    with disk_errors(folder):
        for split in (*_TRAINED, "test"):
            for number, image in enumerate(images.split(split)):
                into = folder / image.target / split / image.label
                into.mkdir(parents=True, exist_ok=True)
                if split in _TRAINED and number % 2 == 0:
                    (into / f"{number:06d}.png").write_bytes(in_mist(image.read()))
                else:
                    (into / f"{number:06d}{image.path.suffix}").symlink_to(image.path.resolve())
        (folder / "_ood").symlink_to(images.root / "_ood")


def in_mist(image: bytes) -> bytes:
    """The same photograph in mist, as a PNG file."""
    from PIL import Image

    with Image.open(io.BytesIO(image)) as opened:
        clear = opened if opened.mode in ("L", "RGB") else opened.convert("RGB")
        written = io.BytesIO()
        clear.point(lambda value: round((1 - _MIST) * value + _MIST * _WHITE)).save(written, "PNG")
    return written.getvalue()


def questions(images: Any) -> list[Question]:
    """The test images in a random order, some of them in mist; among them photographs of something else."""
    mixed = random.Random(0)  # noqa: S311  no secret: the order only mixes the targets
    test, others = list(images.split("test")), list(images.ood("far"))
    mixed.shuffle(test)
    mixed.shuffle(others)
    found = []
    for number, image in enumerate(test):
        data = image.read()
        found.append(Question(data if number % _IN_MIST else in_mist(data), image.target, image.label))
        if others and number % _OF_SOMETHING_ELSE == 0:
            found.append(Question(others.pop().read(), "", OOD_LABEL))
    return found

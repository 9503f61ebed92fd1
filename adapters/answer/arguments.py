"""What callers may give to `predict`: one image or several, and a target for all or for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from registry.errors import BadInput

Images: TypeAlias = "list[Any] | tuple[Any, ...]"
"""Several images."""
Targets: TypeAlias = "str | Sequence[str | None] | None"
"""The target of all images, or a list with the target of each; None for the router to choose."""

_KINDS = "the bytes or path of an image file, a PIL image, or an array [H, W, 3] of uint8"


def as_list(images: object) -> list[Any] | None:
    """Several images as a list; None for one image.

    Raises:
        TypeError: the value, or an element of it, has a type that no image has.
        BadInput: a path at which there is no file.
    """
    if isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.ndim == 4):
        several = list(images)
        check_images(several)
        return several
    check_images([images])
    return None


def one_target(target: object) -> str | None:
    """The target of one image.

    Raises:
        TypeError: it is not a name.
    """
    if target is not None and not isinstance(target, str):
        raise TypeError(f"the target of one image is a name or None, not a {type(target).__name__}")
    return target


def targets_of(images: list[Any], target: object) -> list[str | None]:
    """The target of each image.

    Raises:
        TypeError: there is something else than names.
        BadInput: there are more or fewer targets than images.
    """
    if not isinstance(target, list | tuple):
        return [one_target(target)] * len(images)
    if len(target) != len(images):
        raise BadInput(
            f"{len(images)} images but {len(target)} targets",
            hint="give one target for all, or one for each image",
        )
    return [one_target(each) for each in target]


def check_images(images: list[Any]) -> None:
    """Check that each is something that an image can be given as.

    Raises:
        TypeError: one has another type.
        BadInput: a path at which there is no file.
    """
    for image in images:
        if not isinstance(image, bytes | bytearray | memoryview | str | Path | Image.Image | np.ndarray):
            raise TypeError(f"an image is {_KINDS}, not a {type(image).__name__}; several images are a list of them")
    for image in images:
        if isinstance(image, str | Path) and not _is_there(Path(image)):
            raise BadInput(
                f"there is no file {str(image)[:200]!r}",
                hint="give the path of an image file, or the bytes of an image",
            )


def _is_there(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except OSError:  # a name that is too long, or a folder that may not be read
        return False

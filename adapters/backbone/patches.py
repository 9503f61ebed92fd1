"""How many patches a square of pixels has, and how many are too many: attention compares each patch with each other.

Neither torch nor PIL is imported, because `ulora verify` and `ulora create` look here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from registry.errors import BadManifest

MAX_PATCHES: Final = 16_384
"""Of a version that is created: 2048 pixels of a side with patches of 16. DINOv3 with 1024 pixels has 4,096, DINOv2
with 518 pixels 1,369."""
MAX_LOADED: Final = (4096 // 14) ** 2
"""Of a version that is loaded: all that earlier releases let anybody create on a published backbone, whose smallest
patch has 14 pixels. Whether this machine computes so many in time is tried at each load."""
_USUAL = 16
"""Pixels of a patch where the backbone's configuration does not say it, as in transformers."""


def patch_size(config: Mapping[str, Any]) -> int:
    """Pixels of a side of a patch.

    Raises:
        BadManifest: when a backbone's configuration has none that is a positive number.
    """
    size = config.get("patch_size", _USUAL)
    if type(size) is not int or size < 1:
        raise BadManifest(f"the backbone's configuration is invalid: patch_size is {str(size)[:40]!r}")
    return size


def check_preprocessing(document: Mapping[str, Any], config: Mapping[str, Any], most: int = MAX_PATCHES) -> None:
    """Check that a backbone can take the squares that a `config/preprocessing.json` makes of images.

    Args:
        config: of the backbone.
        most: patches of an image.

    Raises:
        BadManifest: when an image would have more patches, or not one, or the document does not say it.
    """
    try:
        crop = int(document["crop"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadManifest("config/preprocessing.json has no valid field crop") from error
    check_patches(crop, config, most)


def check_patches(crop: int, config: Mapping[str, Any], most: int = MAX_PATCHES) -> None:
    """Check that a backbone can take squares of so many pixels.

    Args:
        crop: pixels of a side.
        config: of the backbone.
        most: patches of an image.

    Raises:
        BadManifest: when an image would have more patches, or not one.
    """
    patch = patch_size(config)
    if crop < patch:
        raise BadManifest(f"{crop} pixels are smaller than a patch of {patch}")
    if (patches := (crop // patch) ** 2) > most:
        raise BadManifest(
            f"{crop} x {crop} pixels are {patches:,} patches of {patch} pixels, more than {most:,}",
            hint=f"crop to {int(most**0.5) * patch} pixels or fewer",
        )

"""What an image becomes before a backbone sees it: a square of pixels, then a normalised tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from adapters.backbone.images import MAX_PIXELS, ImageLike, decoded
from registry.errors import BadManifest

if TYPE_CHECKING:
    import torch

MAX_SIDE = 4096
"""Pixels of a side of the square that a version takes."""
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """The content of `config/preprocessing.json`: resize the shortest side, crop the centre square, normalise.

    Attributes:
        resize, crop: in pixels.
        interpolation: `bilinear` or `bicubic`.
        mean, std: of each channel, for values from 0 to 1.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Preprocessing:
        """Read the document.

        Raises:
            BadManifest: when a field is missing or out of bounds.
        """
        try:
            mean, std = (tuple(float(value) for value in document[name]) for name in ("mean", "std"))
            made = cls(int(document["resize"]), int(document["crop"]), str(document["interpolation"]), mean, std)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadManifest(f"config/preprocessing.json has a missing or invalid field: {error}") from error
        sound = 1 <= made.crop <= made.resize <= MAX_SIDE and made.interpolation in _FILTERS
        if not (sound and len(mean) == len(std) == 3 and min(std) > 0):
            raise BadManifest(f"config/preprocessing.json is out of bounds: {made}")
        return made

    def square(self, image: ImageLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """The resized, cropped pixels: [crop, crop, 3] uint8. A square of this size is returned unchanged if
        nothing is cropped.

        Raises:
            BadImage: when it is not an image, or too large.
        """
        with decoded(image, max_pixels) as pixels:
            # Resize only the part that remains: resizing a 60,000 x 1 image as a whole would take too much memory.
            side = min(pixels.size) * self.crop / self.resize
            left, top = ((length - side) / 2 for length in pixels.size)
            box = (left, top, left + side, top + side)
            return np.asarray(pixels.resize((self.crop, self.crop), _FILTERS[self.interpolation], box=box))

    def normalise(self, squares: torch.Tensor) -> torch.Tensor:
        """[N, H, W, 3] uint8 -> [N, 3, H, W] float32, normalised per channel."""
        import torch

        mean, std = (torch.tensor(values, device=squares.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (squares.permute(0, 3, 1, 2).float().div_(255) - mean) / std

    def __call__(self, image: ImageLike) -> torch.Tensor:
        """One image as [3, H, W] float32.

        Raises:
            BadImage: when it is not an image, or too large.
        """
        import torch

        return self.normalise(torch.from_numpy(self.square(image).copy())[None])[0]

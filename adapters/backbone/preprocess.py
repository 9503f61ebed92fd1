"""Turn an image (bytes, a path, a PIL image, an array) into the tensor that a backbone takes.

It uses PIL and torch only: the processors of DINOv2 and DINOv3 need different packages, and torchvision may be missing.
All sizes are checked before a pixel is decoded.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from registry.errors import BadImage, BadManifest

if TYPE_CHECKING:
    import torch

ImageLike: TypeAlias = "bytes | str | Path | Image.Image | np.ndarray"
"""The bytes or the path of an image file, a PIL image, or an array [H, W, 3] of uint8."""

MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 64 * 1000 * 1000
MAX_SIDE = 4096
"""Bounds: bytes of an image file, pixels of an image, side of the square that a version takes."""

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_HINT = f"send a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image of at most {MAX_BYTES >> 20} MiB and 64 megapixels"


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

    def square(self, image: ImageLike) -> np.ndarray:
        """The resized, cropped pixels: [crop, crop, 3] uint8. A square of this size is returned unchanged.

        Raises:
            BadImage: when it is not an image, or too large.
        """
        return self.square_of(read_image(image))

    def square_of(self, image: Image.Image) -> np.ndarray:
        """Like `square`, for an image that `read_image` has checked."""
        # Resize only the part that remains: resizing a 64,000,000 x 1 image as a whole would take too much memory.
        side = min(image.size) * self.crop / self.resize
        left, top = ((length - side) / 2 for length in image.size)
        box = (left, top, left + side, top + side)
        return np.asarray(image.resize((self.crop, self.crop), _FILTERS[self.interpolation], box=box))

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


def read_image(image: ImageLike) -> Image.Image:
    """Decode an image to RGB, rotated as its EXIF orientation says.

    Raises:
        BadImage: when it is not an image, damaged, in a format that is not accepted, or too large.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Image.Image):
        return _decode(image)
    if isinstance(image, str | Path):
        return _from_bytes(_read_file(Path(image)))
    if isinstance(image, bytes | bytearray | memoryview):
        return _from_bytes(bytes(image))
    raise BadImage(f"a {type(image).__name__} is not an image", hint=_HINT)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise BadImage(f"{str(path)[:200]!r} can't be read: {error}"[:400], hint=_HINT) from error


def _from_bytes(data: bytes) -> Image.Image:
    if len(data) > MAX_BYTES:
        raise BadImage(f"the image has more than {MAX_BYTES} bytes", hint=_HINT)
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadImage(f"the image has far more pixels than {MAX_PIXELS}", hint=_HINT) from error
    except Exception as error:  # a damaged header can make PIL raise any exception
        raise BadImage(f"these {len(data)} bytes are not an image in an accepted format", hint=_HINT) from error
    with opened:
        return _decode(opened)


def _decode(image: Image.Image) -> Image.Image:
    _check_size(*image.size)
    try:
        return _in_eight_bits(ImageOps.exif_transpose(image)).convert("RGB")
    except BadImage:
        raise
    except Exception as error:  # truncated data and broken chunks can make PIL raise any exception
        raise BadImage(f"the image is damaged: {error}"[:300], hint=_HINT) from error


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits per channel; PIL's own conversion of 16 bits clips nearly all values."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImage(f"the image has pixels of mode {image.mode}, whose range is unknown", hint=_HINT)
    return image


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise BadImage(f"an array must be [H, W, 3] of uint8, not {list(array.shape)} of {array.dtype}", hint=_HINT)
    _check_size(array.shape[1], array.shape[0])
    return Image.fromarray(array)


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise BadImage(f"the image has {width} x {height} pixels, not 1 to {MAX_PIXELS}", hint=_HINT)

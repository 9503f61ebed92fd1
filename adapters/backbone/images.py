"""Read an image (bytes, a path, a PIL image, an array) as RGB pixels. Training, benchmarks and replicas all read here.

It uses PIL only: the processors of DINOv2 and DINOv3 need different packages, and torchvision may be missing. All sizes
are checked before a pixel is decoded, and all threads together hold a bounded number of bytes of pixels.
"""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import ExifTags, Image

from adapters.backbone.image_files import FORMATS, format_of, has_end, with_end, without_metadata
from registry.errors import BadImage
from registry.formats.bounded import read_regular

ImageLike: TypeAlias = "bytes | str | Path | Image.Image | np.ndarray"
"""The bytes or the path of an image file, a PIL image, or an array [H, W, 3] of uint8."""

MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 64 * 1000 * 1000
"""Bounds: bytes of an image file, pixels of an image."""
MAX_SIDE = 65_535
"""Pixels of a side: a JPEG's can't be longer (ITU T.81, B.2.2)."""
DECODING_BYTES = 1024 * 1024 * 1024
"""Bytes of pixels that all threads together may hold while they read images; the others wait."""
_PIXEL_BYTES, _MOST_PIXEL_BYTES = 12, 16
"""Of one pixel while an image is read: 4 as it is in the file, 4 as RGB (PIL pads it), and what a decoder holds. The
decoder of WEBP holds more, and a JPEG file without its end is decoded twice."""
_STRIP_PIXELS = 1_000_000

_READ = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
_HINT = f"send a {_READ} image of at most {MAX_BYTES >> 20} MiB and 64 megapixels"

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by EXIF's orientation."""


class MemoryBudget:
    """Bytes that threads take for a time; who comes first is served first."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Wait until so many bytes, no more than the whole budget, are free, and hold them inside."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._queue[0] is ticket and self._free >= size)
                self._free -= size
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


_DECODING = MemoryBudget(DECODING_BYTES)


@contextmanager
def decoded(image: ImageLike, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """An image as RGB, upright as its EXIF orientation says, transparent parts on white. To be used inside only: the
    memory for it is limited over all threads, and a thread that reads one image inside another may wait for ever.

    Args:
        max_pixels: of one with more, nothing is decoded; at most `MAX_PIXELS`.

    Raises:
        BadImage: when it is not an image, damaged, in a format that is not accepted, or too large.
    """
    data = _file_bytes(image)
    source = _in_memory(image) if data is None else _open_file(data)
    width, height = source.size
    if not 0 < width * height <= min(max_pixels, MAX_PIXELS):
        raise BadImage(f"the image has {width} x {height} pixels, not 1 to {min(max_pixels, MAX_PIXELS)}", hint=_HINT)
    if max(width, height) > MAX_SIDE:
        raise BadImage(f"the image has {width} x {height} pixels; a side has at most {MAX_SIDE}", hint=_HINT)
    with _DECODING.take(width * height * _bytes_a_pixel(data or b"")):
        yield _upright(_as_rgb(_with_pixels(source, data or b"")), _orientation(source))


def _bytes_a_pixel(data: bytes) -> int:
    kind = format_of(data)
    return _MOST_PIXEL_BYTES if kind == "WEBP" or (kind == "JPEG" and not has_end(data)) else _PIXEL_BYTES


def _file_bytes(image: ImageLike) -> bytes | None:
    """The bytes of an image file; None for an image that is in memory."""
    if isinstance(image, str | Path):
        return read_file(Path(image))
    return bytes(image) if isinstance(image, bytes | bytearray | memoryview) else None


def read_file(path: Path) -> bytes:
    """The bytes of an image file, at most `MAX_BYTES` + 1 of them. All image files are read here.

    Raises:
        BadImage: when it is not a regular file, or can't be read.
    """
    try:
        return read_regular(path, MAX_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or error
        raise BadImage(f"{str(path)[:200]!r} can't be read: {reason}"[:400], hint=_HINT) from error


def _open_file(data: bytes) -> Image.Image:
    """The image with its size; its pixels are not decoded yet."""
    if len(data) > MAX_BYTES:
        raise BadImage(f"the image has more than {MAX_BYTES} bytes", hint=_HINT)
    kind = format_of(data)
    if kind and kind not in FORMATS:
        raise BadImage(f"{kind} images are not read, but {_READ}", hint=_HINT)
    try:
        return Image.open(io.BytesIO(without_metadata(data)), formats=FORMATS)
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(f"the image has far more pixels than {MAX_PIXELS}", hint=_HINT) from error
    except Exception as error:  # a damaged header can make PIL raise any exception
        raise BadImage(f"these {len(data)} bytes are no {_READ} image", hint=_HINT) from error


def _in_memory(image: object) -> Image.Image:
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Image.Image):
        return image
    raise BadImage(f"a {type(image).__name__} is not an image", hint=_HINT)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise BadImage(f"an array must be [H, W, 3] of uint8, not {list(array.shape)} of {array.dtype}", hint=_HINT)
    return Image.fromarray(array)


def _with_pixels(source: Image.Image, data: bytes) -> Image.Image:
    """The image with its pixels; `data` is its file."""
    try:
        source.load()
    except Exception as error:  # truncated data and broken chunks can make PIL raise any exception
        with suppress(BadImage):
            return _without_end(data)
        raise BadImage(f"the image is damaged: {error}"[:300], hint=_HINT) from error
    return source


def _without_end(data: bytes) -> Image.Image:
    """The pixels of a file that lacks only its end marker, as some cameras write them.

    Raises:
        BadImage: pixels are missing.
    """
    first = b""
    for file in with_end(without_metadata(data)):
        try:
            image = Image.open(io.BytesIO(file), formats=FORMATS)
            pixels = image.tobytes()
        except Exception as error:
            raise BadImage("the image is damaged", hint=_HINT) from error
        if pixels != (first := first or pixels):
            break
    else:
        if first:
            return image
    raise BadImage("pixels are missing", hint=_HINT)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation from 1 to 8; 1, upright, if the EXIF data is damaged."""
    with suppress(Exception):
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _as_rgb(image: Image.Image) -> Image.Image:
    """The image with 8 bits for each of red, green and blue.

    Transparent parts are shown on white, as transformers does since its release 5.
    """
    try:
        if image.mode.startswith("I;16"):
            image = _in_eight_bits(image)
        if image.mode in ("I", "F"):
            raise BadImage(f"the image has pixels of mode {image.mode}, whose range is unknown", hint=_HINT)
        if image.has_transparency_data:
            return _on_white(image)
        return image if image.mode == "RGB" else image.convert("RGB")
    except (ValueError, KeyError) as error:  # a mode that PIL can't convert
        raise BadImage(f"an image of mode {image.mode} can't be read: {error}"[:300], hint=_HINT) from error


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """An image of 16 bits of grey with 8; PIL's own conversion clips nearly all values."""
    grey = np.asarray(image)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey = np.where(grey == transparent, np.uint16(65535), grey)
    return Image.fromarray((grey // 257).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    """The image on white, made in strips, so that it takes little memory besides the result."""
    width, height = image.size
    whole = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(height, top + rows))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        whole.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return whole

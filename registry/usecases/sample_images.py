"""Images to send to what is deployed: of a folder, else those of a version's recorded outputs, else plain patterns."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from registry.errors import BadInput, no_folder
from registry.formats.bounded import read_regular
from registry.versions.manifest import Manifest
from registry.versions.weights import TensorSpan, read_header
from registry.wiring import Wiring

MOST = 8
"""Images at most, of a folder; of recorded outputs two of each component, and no more of them."""
MAX_BYTES = 32 * 1024 * 1024
"""Of one image: more is too much for a replica, too."""
_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_GOLDEN, _INPUTS = "golden.safetensors", "images"
_OF_ADAPTERS = "adapters"
_EACH = 2
_SIDE = 224


@dataclass(frozen=True)
class SampleImage:
    """An image file's bytes, what to call it, and the target to ask for; None where the version chooses."""

    name: str
    data: bytes
    target: str | None = None


def sample_images(wiring: Wiring, manifest: Manifest, folder: Path | None) -> tuple[SampleImage, ...]:
    """The images to send.

    Raises:
        BadInput: the folder has none.
        MissingBlob, CorruptBlob, BadWeights: the recorded outputs can't be read.
    """
    if folder is not None:
        return images_of_folder(folder)
    return tuple(_of_goldens(wiring, manifest)) or tuple(pattern(number) for number in range(4))


def png(pixels: bytes, width: int, height: int) -> bytes:
    """A PNG file of [height, width, 3] bytes. https://www.w3.org/TR/png-3/"""
    row = 3 * width
    lines = b"".join(b"\0" + pixels[start : start + row] for start in range(0, row * height, row))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def images_of_folder(folder: Path) -> tuple[SampleImage, ...]:
    """Some of the images of a folder, spread evenly over their names; the same at each call.

    Raises:
        BadInput: it has none, is not there, or one of them can't be read.
    """
    if not folder.is_dir():
        raise BadInput(no_folder(folder), hint="--data names a folder of images")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    usable = [path for path in files if path.stat().st_size <= MAX_BYTES]
    if not usable:
        raise BadInput(f"{folder} has no images", hint="--data names a folder of images")
    picked = usable[:: max(1, len(usable) // MOST)][:MOST]
    try:
        return tuple(SampleImage(path.relative_to(folder).as_posix(), read_regular(path, MAX_BYTES)) for path in picked)
    except OSError as error:
        raise BadInput(
            f"{error.filename} can't be read: {error.strerror}", hint="--data names a folder of images"
        ) from error


def _of_goldens(wiring: Wiring, manifest: Manifest) -> Iterator[SampleImage]:
    """The first inputs of the recorded outputs of some components."""
    files = [file for file in manifest.files if PurePosixPath(file.path).name == _GOLDEN][: MOST // _EACH]
    local = wiring.blobs.fetch(files, of=manifest.version) if files else {}
    for file in files:
        yield from images_of_golden(file.path, local[file.sha256])


def images_of_golden(name: str, path: Path) -> Iterator[SampleImage]:
    """The first inputs of a file of recorded outputs; `name` is its path in the version.

    Raises:
        BadWeights: it is damaged.
    """
    span = next((span for span in read_header(path, name) if span.name == _INPUTS and _are_images(span)), None)
    if span is None:
        return
    parts = PurePosixPath(name).parts
    target = parts[1] if len(parts) == 3 and parts[0] == _OF_ADAPTERS else None
    count, height, width, _ = span.shape
    size = height * width * 3
    with path.open("rb") as opened:
        opened.seek(span.start)
        for number in range(min(count, _EACH)):
            yield SampleImage(f"{name} {number}", png(opened.read(size), width, height), target)


def _are_images(span: TensorSpan) -> bool:
    shape = span.shape
    return span.dtype == "U8" and len(shape) == 4 and shape[3] == 3 and 0 < shape[1] * shape[2] * 3 <= MAX_BYTES


def pattern(number: int) -> SampleImage:
    """A square of stripes and shades."""
    step = number + 1
    pixels = bytes(
        value
        for y in range(_SIDE)
        for x in range(_SIDE)
        for value in (x * step % 256, y * step % 256, (x + y) // step % 256)
    )
    return SampleImage(f"pattern {number}", png(pixels, _SIDE, _SIDE))

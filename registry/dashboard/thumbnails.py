"""Small pictures of test images, found by their digests in the folder that was given."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from registry.formats import canonical
from registry.formats.bounded import read_regular

SIDE = 160
"""Pixels of a thumbnail's longer side."""
MAX_FILES = 20_000
"""Files of the folder that are looked at."""
_MAX_BYTES = 16 * 1024 * 1024
_MAX_PIXELS = 40_000_000
_TYPES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Thumbnail:
    """A picture as PNG; `name` is the path of its file below the folder."""

    name: str
    png: bytes


def thumbnails(folder: Path, wanted: Collection[str]) -> dict[str, Thumbnail]:
    """Thumbnails by the sha256 of the files, without files that are too large, outside of the folder, or not images."""
    found: dict[str, Thumbnail] = {}
    for path in _files(folder):
        if len(found) == len(set(wanted)):
            break
        with suppress(OSError):
            data = read_regular(path, _MAX_BYTES)
            digest = canonical.sha256(data) if len(data) <= _MAX_BYTES else ""
            if digest in wanted and digest not in found and (png := _small(data)):
                found[digest] = Thumbnail(path.relative_to(folder.resolve()).as_posix(), png)
    return found


def _files(folder: Path) -> Iterator[Path]:
    """The image files below a folder in order; no link leads out of it."""
    root, seen = folder.resolve(), 0
    for place, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            path = Path(place) / name
            if path.suffix.lower() in _TYPES and path.resolve().is_relative_to(root):
                seen += 1
                if seen > MAX_FILES:
                    return
                yield path


def _small(data: bytes) -> bytes:
    """A picture in small; empty if it is none, or too large."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > _MAX_PIXELS:
                    return b""
                image.thumbnail((SIDE, SIDE))
                small = io.BytesIO()
                image.convert("RGB").save(small, "PNG")
                return small.getvalue()
    except Exception:  # a decoder may raise anything about bytes that are no image
        return b""

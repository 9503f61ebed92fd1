"""The bytes of image files: which format they have, and what of them decides the pixels.

People's files carry notes, profiles, previews and other metadata, often damaged or very large. None of it changes an
answer, so none of it may prevent one. Only the orientation in EXIF is kept.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from registry.errors import BadImage

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""The formats that are read, as PIL calls them."""
_MAX_PARTS = 100_000
"""Chunks of a PNG file, or segments of a JPEG file: files that have more are not read."""

_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"\0\0\x01\0": "ICO",
    b"<svg": "SVG",
    b"FUJIFILMCCD-RAW": "camera raw",
}
_RIFF = re.compile(rb"RIFF....(WEBP)", re.DOTALL)
_ISO_MEDIA = re.compile(rb"....ftyp(heic|heix|hevc|heim|heis|mif1|msf1|avif|avis|crx )", re.DOTALL)
"""ISO 14496-12: the size and type of the first box, then the major brand."""

_PNG_END = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"})
"""The chunks that decide what is shown: PIL does not apply colour profiles."""

_JPEG_END = b"\xff\xd9"
_START_OF_SCAN, _COMMENT, _APPLICATION = 0xDA, 0xFE, range(0xE0, 0xF0)
_ANYTHING = tuple(bytes([first, 0xAA, 0x31, 0x9C]) * 64 for first in (0x1E, 0x55, 0x9B, 0xE3))
"""Continuations of the data of a scan: the first two bits of each are other ones."""
_RESTARTS = re.compile(rb"\xff\xdd\0\x04(?!\0\0)", re.DOTALL)
"""A restart interval (ITU T.81, B.2.4.4): at each restart marker a decoder throws away what comes before it."""
_MAX_SCANS = 200
"""Of a JPEG file: each may go over all pixels again. Encoders make about ten."""
_RUN_LENGTHS = (1, 2)
"""Compressions of BMP (BI_RLE8, BI_RLE4) that PIL decodes in Python, which takes a minute for a few bytes."""
_COEFFICIENTS = 64
"""Of a block of a JPEG image."""


def format_of(data: bytes) -> str:
    """The name of the format of an image file, by its first bytes; empty if it is none that is known here."""
    if _RIFF.match(data):
        return "WEBP"
    if media := _ISO_MEDIA.match(data):
        return "AVIF" if media[1].startswith(b"avi") else "camera raw" if media[1] == b"crx " else "HEIC"
    return next((name for start, name in _STARTS.items() if data.startswith(start)), "")


def without_metadata(data: bytes) -> bytes:
    """The same image file without the parts that do not change its pixels or its orientation.

    A file whose structure is damaged is returned as it is from the damage on: the decoder decides.

    Raises:
        BadImage: it has too many parts, or is a BMP file with run-length encoding.
    """
    kind = format_of(data)
    if kind == "BMP" and data[14:18] != b"\x0c\0\0\0" and int.from_bytes(data[30:34], "little") in _RUN_LENGTHS:
        raise BadImage("BMP images with run-length encoding are not read", hint="save it again as PNG")
    if kind == "PNG":
        return data[:8] + b"".join(_png_chunks(data))
    if kind == "JPEG":
        return data[:2] + b"".join(_jpeg_segments(data))
    return data


def has_end(data: bytes) -> bool:
    """Whether a JPEG file ends as it should."""
    return data.endswith(_JPEG_END)


def with_end(data: bytes) -> tuple[bytes, ...]:
    """For a JPEG file that stops without its end marker: files that all have the same pixels if all its own pixels are
    there, and different ones if some are missing. Empty for other files.

    The first is the file and an end marker. The others have other data before the end marker: a decoder that has all
    blocks does not look at it, and one that lacks some takes it for them. (Not in files with restart markers.)
    """
    if format_of(data) != "JPEG" or has_end(data) or _RESTARTS.search(data) or not _has_all_scans(data):
        return ()
    rest = data[:-1] if data.endswith(b"\xff") else data
    return tuple(rest + more + _JPEG_END for more in (b"", *_ANYTHING))


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """The chunks that are kept, each with its length, type and checksum; an end if there is none."""
    start = 8
    for _ in range(_MAX_PARTS):
        if start + 12 > len(data):
            yield _PNG_END
            return
        kind, end = data[start + 4 : start + 8], start + 12 + int.from_bytes(data[start : start + 4], "big")
        if kind in _PNG_KEPT:
            yield data[start:end]
        if kind == b"IEND":
            return
        start = end
    raise _too_many_parts()


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    """The segments that are kept, each with its marker and length; all from the first scan on as one."""
    start, had_exif = 2, False
    for _ in range(_MAX_PARTS):
        marker, body = data[start + 1 : start + 2], data[start + 4 : start + 14]
        if data[start : start + 1] != b"\xff" or not marker or marker[0] == _START_OF_SCAN:
            if data.count(b"\xff\xda", start) > _MAX_SCANS:
                raise _too_many_parts()
            yield data[start:]
            return
        if marker == b"\xff":  # a fill byte
            start += 1
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        is_exif = marker[0] == 0xE1 and body.startswith(b"Exif\0\0")
        if _decides_pixels(marker[0], body, end - start) or (is_exif and not had_exif):
            yield data[start:end]
        had_exif |= is_exif
        start = max(end, start + 2)
    raise _too_many_parts()


def _decides_pixels(marker: int, body: bytes, size: int) -> bool:
    """Whether a segment changes the pixels. Those of JFIF and Adobe say how colours are stored."""
    if marker == 0xE0:
        return body.startswith(b"JFIF\0") and size >= 18
    if marker == 0xEE:
        return body.startswith(b"Adobe") and size >= 16
    return marker != _COMMENT and marker not in _APPLICATION


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans bring every coefficient of every component in full. The last one may still be incomplete.

    ITU T.81, B.2.3: a scan names its components, the first and last coefficient, and the lowest bit that it brings.
    """
    first = data.find(bytes([0xFF, _START_OF_SCAN]))
    components: set[int] = set()
    full: set[tuple[int, int]] = set()
    for scan in re.finditer(rb"\xff\xda..", data[max(0, first) :], re.DOTALL):
        start = first + scan.end()
        count = data[start] if start < len(data) else 0
        named, rest = data[start + 1 : start + 1 + 2 * count : 2], data[start + 1 + 2 * count : start + 4 + 2 * count]
        if len(rest) < 3:
            return False
        components |= set(named)
        if rest[2] & 15 == 0:
            full |= {(component, place) for component in named for place in range(rest[0], min(rest[1], 63) + 1)}
    return bool(components) and len(full) == _COEFFICIENTS * len(components)


def _too_many_parts() -> BadImage:
    return BadImage("the image file has far too many parts", hint="save it again with another program")

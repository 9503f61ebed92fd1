"""Images of random colours, to try a version with. Nothing that needs numpy or PIL is imported."""

from __future__ import annotations

import random
import struct
import zlib


def random_png(seed: int, side: int) -> bytes:
    """A PNG file of random colours, `side` pixels wide and high."""
    chosen = random.Random(seed)  # noqa: S311  no secret
    lines = b"".join(b"\0" + chosen.randbytes(3 * side) for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

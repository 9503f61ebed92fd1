"""Bytes that come in pieces from somebody else: read as a whole, and never more than a bound."""

from __future__ import annotations

from collections.abc import Iterable


def joined(pieces: Iterable[bytes], limit: int) -> bytes | None:
    """The bytes as a whole; None as soon as they are more than `limit`: then no further piece is asked for."""
    kept: list[bytes] = []
    size = 0
    for piece in pieces:
        kept.append(piece)
        size += len(piece)
        if size > limit:
            return None
    return b"".join(kept)

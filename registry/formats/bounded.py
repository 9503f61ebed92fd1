"""Bytes that come from somebody else: read as a whole, and never more than a bound."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from registry.progress import ignore

_CHUNK = 1024 * 1024


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


def open_regular(file: Path, *, follow: bool = True) -> BinaryIO:
    """Open a file for reading that is a regular one; nothing that could keep the reader waiting, such as a pipe.

    Args:
        follow: whether the file itself may be a link to another one.

    Raises:
        OSError: it is something else, or can't be read.
    """
    opened = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "it is not a regular file", str(file))
    return os.fdopen(opened, "rb")


def read_regular(file: Path, limit: int) -> bytes:
    """The bytes of a regular file, at most `limit` + 1 of them.

    Raises:
        OSError: it is not a regular file, or can't be read, or a reader would have to wait for it.
    """
    with open_regular(file) as opened:
        data: bytes | None = opened.read(limit + 1)
    if data is None:  # the kernel's own files, such as /proc/kmsg, say that they are regular
        raise OSError(errno.EAGAIN, "it has to be waited for", str(file))
    return data


def file_digest(opened: int, at_most: int, arrived: Callable[[int], object] = ignore) -> str | None:
    """The sha256 of an opened file's bytes, in hex; None if they are more than `at_most`.

    A sparse file may say any size and take no space, and to read 8 TiB of it takes hours. So its size is looked at
    first, and it is read to one byte beyond the bound: somebody may make it longer meanwhile.

    Args:
        opened: its descriptor, at the beginning.
        arrived: called with the number of bytes of each piece that was read.
    """
    if os.fstat(opened).st_size > at_most:
        return None
    digest, left = hashlib.sha256(), at_most
    while chunk := os.read(opened, min(_CHUNK, left + 1)):
        left -= len(chunk)
        if left < 0:
            return None
        digest.update(chunk)
        arrived(len(chunk))
    return digest.hexdigest()

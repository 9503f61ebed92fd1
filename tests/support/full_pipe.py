"""A pipe that takes nothing more until somebody reads, as of a terminal that was stopped or a program that hangs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PAGE = 4096


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """The descriptors to read from it and to write to it."""
    reads, writes = os.pipe()
    try:
        os.set_blocking(writes, False)
        for size in (_PAGE, 1):
            with suppress(BlockingIOError):
                while True:
                    os.write(writes, b" " * size)
        os.set_blocking(writes, True)
        yield reads, writes
    finally:
        for end in (reads, writes):
            with suppress(OSError):
                os.close(end)

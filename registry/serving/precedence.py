"""Let the event loop go first while it refuses a flood of requests.

Threads take the interpreter's lock in turns. The loop gives it up at every read and write of a socket, and gets it back
only after up to 5 ms if another thread runs Python then: under a flood it does so thousands of times a second, and
refusals wait behind each other for seconds. So while requests are refused, the thread that computes waits after each
batch until the loop has been through all its sockets, and the threads that read images wait with it.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time

_RECENT = 0.25
"""Seconds after a refusal for which the loop goes first."""
_LONGEST = 0.1
"""Seconds that a thread waits for the loop at most: images have to be answered too."""


class LoopPrecedence:
    """Who goes first: nobody, until there is a loop that refuses requests."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._refused_at = -math.inf
        self._is_free = threading.Event()
        self._is_free.set()

    def refused(self, loop: asyncio.AbstractEventLoop) -> None:
        """This loop refused a request."""
        self._loop, self._refused_at = loop, time.monotonic()

    @property
    def is_on(self) -> bool:
        """Whether a loop refused a request a moment ago."""
        return time.monotonic() - self._refused_at <= _RECENT

    def give_way(self) -> float:
        """Wait until the loop has done what it is at, and looked once at all its sockets; the seconds of that."""
        loop, began = self._loop, time.monotonic()
        if loop is None or not self.is_on:
            return 0.0
        self._is_free.clear()
        passed = threading.Event()
        try:
            loop.call_soon_threadsafe(loop.call_soon, passed.set)  # the end of the next round, not of this one
            passed.wait(_LONGEST)
        except RuntimeError:  # it is closed
            self._loop = None
        finally:
            self._is_free.set()
        return time.monotonic() - began

    def wait(self) -> None:
        """Wait while the thread that computes gives way."""
        self._is_free.wait(_LONGEST)

"""Bring answers from the thread that computes to the event loop, all that are there with one wake-up.

asyncio's own way wakes the loop for each. That is a write to a socket, at which the thread lets go of the interpreter's
lock, and does not get it back while the loop sends that one answer: thirty times for a batch of thirty.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

T = TypeVar("T")


class Handover:
    """The way to one event loop, in which `wrap` is called."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self._arrived: deque[tuple[asyncio.Future[Any], Future[Any]]] = deque()
        self._is_woken = False

    def wrap(self, future: Future[T]) -> asyncio.Future[T]:
        """What becomes of a future of another thread, to be awaited in the loop. Cancelling this cancels nothing."""
        mine: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: self._bring(mine, done))
        return mine

    def _bring(self, mine: asyncio.Future[T], done: Future[T]) -> None:
        """Any thread calls it. The loop resets `_is_woken` before it looks, so it finds what was added before that was
        seen here."""
        self._arrived.append((mine, done))
        loop = self._loop()
        if loop is not None and not self._is_woken:
            self._is_woken = True
            with suppress(RuntimeError):  # it is closed: nobody waits any more
                loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._is_woken = False
        while self._arrived:
            mine, done = self._arrived.popleft()
            if not mine.done():
                _copy(done, mine)


def _copy(done: Future[T], mine: asyncio.Future[T]) -> None:
    try:
        mine.set_result(done.result())
    except CancelledError:
        mine.cancel()
    except StopIteration as error:  # no future takes one
        mine.set_exception(RuntimeError(repr(error)))
    except BaseException as error:
        mine.set_exception(error)


_ways: WeakKeyDictionary[asyncio.AbstractEventLoop, Handover] = WeakKeyDictionary()


def handover_to(loop: asyncio.AbstractEventLoop) -> Handover:
    """The way to this loop. To be called in its thread."""
    way = _ways.get(loop)
    if way is None:
        way = _ways[loop] = Handover(loop)
    return way

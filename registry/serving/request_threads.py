"""Threads that compute the answers of requests, and keep neither the event loop nor the end of the process waiting."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

MAX_THREADS = 40
"""Requests that are computed at a time; the others wait."""

Result = TypeVar("Result")
_Outcome = tuple[Any, BaseException | None]
_Work = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[_Outcome]"]


class RequestThreads:
    """Up to `MAX_THREADS` threads, made when they are needed and kept, because libraries have state for each thread.

    A call that hangs takes one of them for ever. The event loop can stop waiting for it, and the process can end.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._threads = self._busy = 0

    async def run(self, act: Callable[[], Result]) -> Result:
        """Call a function in one of the threads; all calls must come from one event loop."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_Outcome] = loop.create_future()
        self._busy += 1
        if self._busy > self._threads and self._threads < MAX_THREADS:
            self._threads += 1
            threading.Thread(target=self._compute, name="ulora-request", daemon=True).start()
        self._work.put((act, loop, answer))
        result, failure = await answer
        if failure is not None:
            raise failure
        return result  # type: ignore[no-any-return]

    def _compute(self) -> None:
        while True:
            act, loop, answer = self._work.get()
            outcome: _Outcome = (None, None)
            # The client may have gone while the request waited.
            if not answer.cancelled():
                try:
                    outcome = (act(), None)
                except BaseException as error:
                    outcome = (None, error)
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._give, answer, outcome)
            del act, answer, outcome

    def _give(self, answer: asyncio.Future[_Outcome], outcome: _Outcome) -> None:
        self._busy -= 1
        if not answer.cancelled():
            answer.set_result(outcome)

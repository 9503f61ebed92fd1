"""Run functions in other threads: one on many items, or one with a deadline."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, replace
from typing import TypeVar

WORKERS = 16
MAX_CALLS = 256
"""The number of calls with a deadline that may run at a time: those that were given up and never end are bounded."""
_LAST_SECONDS = 1.0
"""How long after Ctrl-C the other threads may go on."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class NotStarted(TimeoutError):
    """There was no time left to start a call."""


@dataclass(frozen=True)
class _Limits:
    """When the calls that are made here end, by `time.monotonic()`, and what stops them before they start."""

    ends: float = math.inf
    stops: tuple[threading.Event, ...] = ()


_NONE = _Limits()
_LIMITS: ContextVar[_Limits] = ContextVar("limits", default=_NONE)
_CALLS = threading.BoundedSemaphore(MAX_CALLS)


def in_parallel(act: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`act` on every item, up to WORKERS at a time, results in order. After an error no further item is started.

    Ctrl-C waits a second at most: threads that go on do not keep the process from ending, and begin no other call.
    """
    waiting = deque(enumerate(items))
    results: dict[int, Result] = {}
    failures: dict[int, BaseException] = {}
    stop = threading.Event()

    def work() -> None:
        limits = _LIMITS.get()
        _LIMITS.set(replace(limits, stops=(*limits.stops, stop)))
        while waiting and not failures and not stop.is_set():
            try:
                number, item = waiting.popleft()
            except IndexError:
                return
            try:
                results[number] = act(item)
            except BaseException as error:
                failures[number] = error

    total = len(waiting)
    threads = [
        threading.Thread(target=copy_context().run, args=(work,), name="ulora-parallel", daemon=True)
        for _ in range(min(WORKERS, total))
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        stop.set()
        _join(threads, _LAST_SECONDS)
        raise
    if failures:
        raise failures[min(failures)]
    return [results[number] for number in range(total)]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let every `within` that is called inside, in this thread or by `in_parallel`, end after so long in all."""
    limits = _LIMITS.get()
    token = _LIMITS.set(replace(limits, ends=min(limits.ends, time.monotonic() + seconds)))
    try:
        yield
    finally:
        _LIMITS.reset(token)


def time_left() -> float:
    """The seconds until the innermost `time_limit` is over, 0 or more; infinite if there is none."""
    return max(0.0, _LIMITS.get().ends - time.monotonic())


def within(
    seconds: float, act: Callable[[], Result], name: str = "ulora-within", *, moved: Callable[[], object] | None = None
) -> Result:
    """Call `act` in its own thread and wait for its result at most so long. After that it may still be running; it does
    not keep the process from ending.

    With `moved`, which says how far the call has come, it is waited for as long as that changes within `seconds`.

    Raises:
        NotStarted: there was no time left, or too many such calls have not ended.
        TimeoutError: it has not returned in time.
        Exception: the one that it raised.
    """
    left = 0.0 if any(stop.is_set() for stop in _LIMITS.get().stops) else min(seconds, time_left())
    if not left or not _CALLS.acquire(timeout=left):
        raise NotStarted("the time for it is over")
    results: list[Result] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with time_limit(math.inf if moved else seconds):
                results.append(act())
        except BaseException as error:
            failures.append(error)
        finally:
            _CALLS.release()

    thread = threading.Thread(target=copy_context().run, args=(run,), name=name, daemon=True)
    try:
        thread.start()
    except BaseException:
        _CALLS.release()
        raise
    _wait(thread, seconds, moved)
    if failures:
        raise failures[0]
    return results[0]


def _wait(thread: threading.Thread, seconds: float, moved: Callable[[], object] | None) -> None:
    place = moved() if moved else None
    while True:
        patience = min(seconds, time_left())
        thread.join(patience)
        if not thread.is_alive():
            return
        before, place = place, moved() if moved else None
        if place == before or not time_left():
            raise TimeoutError(f"not done after {patience:.3g} s")


def _join(threads: Iterable[threading.Thread], seconds: float) -> None:
    ends = time.monotonic() + seconds
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, ends - time.monotonic()))

"""Run functions in other threads: one on many items, or one with a deadline."""

from __future__ import annotations

import gc
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import socket
    from types import FrameType

WORKERS = 16
MAX_CALLS = 256
"""The number of calls with a deadline that may run at a time: those that were given up and never end are bounded."""
MAX_IDLE = 8
"""Threads that are kept for later calls."""
_IDLE = "ulora-idle"
"""Their name while they wait for one."""
_LAST_SECONDS = 1.0
"""How long after Ctrl-C the other threads may go on."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 2.0
_FRAMES = 6
"""Between a function of a library that reads an answer, and that of the standard library that waits for its bytes."""

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


def in_parallel(act: Callable[[Item], Result], items: Iterable[Item], workers: int = WORKERS) -> list[Result]:
    """`act` on every item, up to `workers` at a time, results in order. After an error no further item is started.

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
        for _ in range(min(workers, total))
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
    if not left > 0:  # also where it is not a number
        raise NotStarted("the time for it is over")
    try:
        _THREADS.places.get(timeout=min(left, threading.TIMEOUT_MAX))
    except Empty as error:
        raise NotStarted("the time for it is over") from error
    try:
        call = _Call(act, math.inf if moved else seconds, name)
        _make_elsewhere(call)
    except BaseException:
        _THREADS.places.put(None)
        raise
    _wait(call, seconds, moved)
    if call.failures:
        raise call.failures[0]
    return call.results[0]


def within_or_ended(seconds: float, act: Callable[[], Result], name: str = "ulora-within") -> Result:
    """The same for a call that waits for a server: if it does not return in time, its sockets are shut down until it
    has ended too.

    A process that asks for weeks would otherwise have a thread, and one place of MAX_CALLS less, for each answer that
    never ends. What the call does then, such as to try again, is its own matter; see `time_left`.

    Raises:
        NotStarted, TimeoutError, Exception: see `within`.
    """
    call = _Endable(act)
    try:
        return within(seconds, call.make, name)
    except TimeoutError:
        if call.give_up():
            with suppress(RuntimeError):  # there may be no more threads: it is as late all the same
                threading.Thread(target=call.end, name="ulora-end", daemon=True).start()
        raise


class _Endable(Generic[Result]):
    """One call, made in one thread, that another thread may end.

    No exception is raised in its thread from outside (`PyThreadState_SetAsyncExc`): between two lines of a library it
    would leave a lock taken for ever, such as that of the connections to S3, and no later call would get one.
    """

    def __init__(self, act: Callable[[], Result]) -> None:
        self._act = act
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._has_ended = threading.Event()
        self._is_given_up = False

    def make(self) -> Result:
        with self._lock:
            if self._is_given_up:
                raise NotStarted("nobody waits for it any more")
            self._thread = threading.get_ident()
        try:
            return self._act()
        finally:
            with self._lock:
                self._thread = None
            self._has_ended.set()

    def give_up(self) -> bool:
        """Do not begin; whether it has begun and goes on."""
        with self._lock:
            self._is_given_up = True
            return self._thread is not None

    def end(self) -> None:
        """Shut down what it waits for, again and again, until it has ended: it may open another connection."""
        pause = _FIRST_PAUSE
        while not self._has_ended.is_set():
            with self._lock:  # while it is held, the thread makes no other call
                if self._thread is not None and (found := _socket_of(self._thread)):
                    _shut(found)
            self._has_ended.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def frames_of_threads() -> dict[int, FrameType]:
    """Where each thread is.

    CPython 3.11 may collect garbage while it makes the frames, and holds a lock that every thread needs to start and to
    end. To close a socket that is garbage lets other threads go on: the first one that waits for that lock stops all of
    the process for ever (github.com/python/cpython/issues/106883). So nothing is collected meanwhile.
    """
    with _THREADS.looking:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if was_enabled:
                gc.enable()


def _socket_of(thread: int) -> socket.socket | None:
    """The socket that a thread reads from, writes to or connects, found in the innermost functions that it is in."""
    frame = frames_of_threads().get(thread)
    for _ in range(_FRAMES):
        if frame is None:
            break
        is_sending = frame.f_globals.get("__name__") == "http.client"
        for value in list(frame.f_locals.values()):
            if found := _socket_in(value, is_sending=is_sending):
                return found
        frame = frame.f_back
    return None


def _socket_in(value: object, *, is_sending: bool) -> socket.socket | None:
    import socket  # not before: a rollback that is answered does not need it
    from http.client import HTTPConnection

    if isinstance(value, socket.SocketIO):
        value = value._sock  # type: ignore[attr-defined]
    elif is_sending and isinstance(value, HTTPConnection):
        value = value.sock
    return value if isinstance(value, socket.socket) else None


def _shut(found: socket.socket) -> None:
    import socket

    with suppress(OSError):  # it is closed already
        socket.socket.shutdown(found, socket.SHUT_RDWR)  # that of an SSLSocket changes what its reader needs


class _Call(Generic[Result]):
    """A call that another thread makes, for a caller who may give it up."""

    def __init__(self, act: Callable[[], Result], seconds: float, name: str) -> None:
        self.results: list[Result] = []
        self.failures: list[BaseException] = []
        self._act, self._seconds, self._name = act, seconds, name
        self._context = copy_context()
        self._changing = threading.Lock()
        self._is_over = self._is_given_up = False
        self._running = threading.Lock()
        self._running.acquire()

    def make(self, waiting: SimpleQueue[_Call[Any]]) -> bool:
        """Make the call. If it was not given up, this thread, which waits for calls at `waiting`, may make another."""
        threading.current_thread().name = self._name
        try:
            self.results.append(self._context.run(self._act_in_time))
        except BaseException as error:
            self.failures.append(error)
        _THREADS.places.put(None)
        with self._changing:
            self._is_over = True
            goes_on = not self._is_given_up and len(_THREADS.idle) < MAX_IDLE
        if goes_on:
            threading.current_thread().name = _IDLE
            _THREADS.idle.append(waiting)
        self._running.release()
        return goes_on

    def wait(self, seconds: float) -> bool:
        """Wait for its end at most so long; whether it has ended."""
        return self._running.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))

    def give_up(self) -> bool:
        """Leave it behind; False if it has ended meanwhile."""
        with self._changing:
            self._is_given_up = not self._is_over
        return self._is_given_up

    def _act_in_time(self) -> Result:
        with time_limit(self._seconds):
            return self._act()


class _Threads:
    """The threads that make calls. To start one costs more than many a call does, so some are kept.

    Attributes:
        places: for the calls that may be made at a time.
        idle: where threads that have made a call wait for the next one.
        looking: whoever holds it may look where threads are.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew: a forked process has none of its parent's threads, and maybe a lock that one of them held."""
        # In C: Ctrl-C in the middle of a semaphore, which is Python, would leave it locked for ever.
        self.places: SimpleQueue[None] = SimpleQueue()
        for _ in range(MAX_CALLS):
            self.places.put(None)
        self.idle: list[SimpleQueue[_Call[Any]]] = []
        self.looking = threading.Lock()


_THREADS = _Threads()
os.register_at_fork(after_in_child=_THREADS.reset)


def _make_elsewhere(call: _Call[Any]) -> None:
    try:
        _THREADS.idle.pop().put(call)
    except IndexError:
        waiting: SimpleQueue[_Call[Any]] = SimpleQueue()
        waiting.put(call)
        threading.Thread(target=_make_calls, args=(waiting,), daemon=True).start()


def _make_calls(waiting: SimpleQueue[_Call[Any]]) -> None:
    while waiting.get().make(waiting):
        pass


def _wait(call: _Call[Any], seconds: float, moved: Callable[[], object] | None) -> None:
    place = moved() if moved else None
    while True:
        patience = min(seconds, time_left())
        if call.wait(patience):
            return
        before, place = place, moved() if moved else None
        if (place == before or not time_left()) and call.give_up():
            raise TimeoutError(f"not done after {patience:.3g} s")


def _join(threads: Iterable[threading.Thread], seconds: float) -> None:
    ends = time.monotonic() + seconds
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, ends - time.monotonic()))

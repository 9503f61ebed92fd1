"""Calls of MLflow's client with a time limit for all calls of a conversation together."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from registry.parallel import within

Result = TypeVar("Result")


class Deadline:
    """The end of a conversation: its calls are made in threads of their own, and waited for until then."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def call(self, act: Callable[[], Result]) -> Result:
        """The result of `act`. If the time ends first, its thread is interrupted and left behind.

        Raises:
            TimeoutError: it has not returned in time.
            Exception: the one that it raised.
        """
        worker = _Worker()
        try:
            return within(max(0.0, self._end - time.monotonic()), lambda: worker.run(act), name="ulora-mlflow")
        except TimeoutError as error:
            worker.interrupt()
            raise TimeoutError(f"timed out, {self._seconds:g} s are over") from error


class BoundedClient:
    """MLflow's client, each of whose methods ends by a deadline. Raises TimeoutError beside what they raise."""

    def __init__(self, client: Any, deadline: Deadline) -> None:
        self._client = client
        self._deadline = deadline

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **options: self._deadline.call(lambda: method(*args, **options))


class _Interrupted(BaseException):
    """The caller has gone. No `Exception`, so that a loop that retries does not go on."""


class _Worker:
    """One call in a thread, which may be interrupted from another one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._is_over = False

    def run(self, act: Callable[[], Result]) -> Result:
        with self._lock:
            if self._is_over:
                raise _Interrupted
            self._thread = threading.get_ident()
        try:
            return act()
        finally:
            with self._lock:
                self._is_over = True

    def interrupt(self) -> None:
        """Raise `_Interrupted` in the thread when it next runs Python code, as it does after each byte that it reads.

        So no thread is left for long by a server that never ends its answer, in a process that asks for weeks. Python
        offers no other way to end a thread, and a socket deep inside of MLflow can't be reached to close it.
        """
        with self._lock:
            if not self._is_over and self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(_Interrupted))
            self._is_over = True

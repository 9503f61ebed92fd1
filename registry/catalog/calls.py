"""Calls of MLflow's client with a time limit for all calls of a conversation together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from registry.errors import UloraError, first_line
from registry.parallel import within_or_ended

Result = TypeVar("Result")


class BadAnswer(Exception):
    """A server answered what MLflow's client, or this package, can't read."""


class Deadline:
    """The end of a conversation: its calls are made in threads of their own, and waited for until then."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def call(self, act: Callable[[], Result]) -> Result:
        """The result of `act`. If the time ends first, it is left behind, and ended.

        Raises:
            TimeoutError: it has not returned in time.
            Exception: the one that it raised.
        """
        try:
            return within_or_ended(max(0.0, self._end - time.monotonic()), act, "ulora-mlflow")
        except TimeoutError as error:
            raise TimeoutError(f"timed out, {self._seconds:g} s are over") from error


class BoundedClient:
    """MLflow's client, each of whose methods ends by a deadline.

    They raise TimeoutError, and BadAnswer for what the client stumbles over in an answer, beside what they raise.
    """

    def __init__(self, client: Any, deadline: Deadline) -> None:
        self._client = client
        self._deadline = deadline

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **options: self._read(lambda: method(*args, **options))

    def _read(self, act: Callable[[], Result]) -> Result:
        from mlflow.exceptions import MlflowException

        try:
            return self._deadline.call(act)
        except (MlflowException, UloraError, OSError, ImportError):  # errors of `requests` and time-outs are OSErrors
            raise
        except Exception as error:
            raise BadAnswer(f"{type(error).__name__}: {first_line(error)}") from error

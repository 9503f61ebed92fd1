"""How old what a replica knows of its channel's log is, and why."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from registry.errors import BrokenChain, first_line
from registry.machine import clock
from registry.serving import events


class Freshness:
    """The age of the last successful read of one channel's log. One thread notes; others may ask."""

    def __init__(
        self, channel: str, stale_after: float, max_staleness: float | None, changed: Callable[[], None]
    ) -> None:
        """`changed` is called when there is another problem than before; the rest are options of `LiveOptions`."""
        self._channel = channel
        self._stale_after = stale_after
        self._max_staleness = max_staleness
        self._changed = changed
        self._read_at = time.monotonic()
        self._unread_since = ""
        self._origin = ""
        self._problem = ""

    @property
    def age(self) -> float:
        """Seconds since the log was read; after a start without the store, since its record was confirmed."""
        return time.monotonic() - self._read_at

    @property
    def state(self) -> Literal["serving", "stale", "not ready"]:
        """What it means for the replica."""
        if self._max_staleness is not None and self.age > self._max_staleness:
            return "not ready"
        return "stale" if self._origin or self.age > self._stale_after else "serving"

    @property
    def problem(self) -> str:
        """Why the log is not up to date: never empty while it is too old."""
        is_old = self.age > self._stale_after
        return self._problem or (f"the log was last read {self.age:.0f} s ago" if is_old else "")

    def begin_without_store(self, age: float, origin: str, error: Exception) -> None:
        """It begins with a record that was confirmed `age` seconds ago; `origin` says where it comes from."""
        self._read_at = time.monotonic() - max(0.0, age)
        self._origin = f"; {origin}"
        self.note_unread(error)

    def note_read(self) -> bool:
        """The log was read; whether it could not be read before."""
        was_unread = bool(self._unread_since)
        self._read_at = time.monotonic()
        self._unread_since = self._origin = ""
        self._set_problem("")
        return was_unread

    def note_unread(self, error: Exception) -> None:
        """The log can't be read."""
        self._unread_since = self._unread_since or clock.timestamp()
        self._set_problem(f"the log can't be read since {self._unread_since}: {first_line(error)}{self._origin}")

    def note_broken(self, error: BrokenChain) -> None:
        """The log was read, but it does not continue what was read before."""
        self._read_at = time.monotonic()
        self._set_problem(f"{error}{self._origin}")

    def _set_problem(self, problem: str) -> None:
        if problem == self._problem:
            return
        if problem and not self._problem:  # the text has times in it, so that only the first one is news
            events.log_unread(problem)
        elif not problem:
            events.log_read_again(self._channel)
        self._problem = problem
        self._changed()

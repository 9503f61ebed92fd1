"""What a running load does, and until when: written by the threads that load, read by those that watch it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from registry.errors import LoadFailed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Step:
    name: str
    seconds: float
    since: float
    waits_for: str = ""


class Steps:
    """The steps of one load. Each has a deadline, which a sign of life puts off.

    Attributes:
        image_seconds: how long the version took for an image, the fastest of those that were tried; 0 before that.
    """

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called in the thread that loads when a step, and with it a deadline, begins."""
        self._changed = changed
        self._began = time.monotonic()
        # Replaced as a whole by any of the threads that load; the last one wins.
        self._step = _Step("start", float("inf"), self._began)
        self.image_seconds = 0.0
        self._notes: set[str] = set()
        self._abandoned = False

    @contextmanager
    def step(self, name: str, seconds: float) -> Iterator[None]:
        """Do a step, which must end, or show a sign of life, within so many seconds.

        Raises:
            LoadFailed: the load was abandoned meanwhile.
        """
        self._go_on()
        outer, self._step = self._step, _Step(name, seconds, time.monotonic())
        self._changed()
        try:
            yield
        finally:
            self._step = replace(outer, since=time.monotonic())
            self._changed()
        self._go_on()

    def arrived(self, count: int) -> None:
        """Bytes arrived: a sign of life.

        Raises:
            LoadFailed: the load was abandoned meanwhile.
        """
        self._go_on()
        self._step = replace(self._step, since=time.monotonic(), waits_for="")

    def waits(self, reason: str) -> None:
        """The step waits for something, by a deadline of its own.

        Raises:
            LoadFailed: the load was abandoned meanwhile.
        """
        self._go_on()
        self._step = replace(self._step, since=time.monotonic(), waits_for=f"waits for {reason}")

    def note(self, text: str) -> None:
        """Log something that people should know, once."""
        if text not in self._notes:
            self._notes.add(text)
            _log.warning("%s", text)

    def abandon(self) -> None:
        """End the load at its next step, or sign of life: nobody waits for it any more."""
        self._abandoned = True

    @property
    def age(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self._began

    @property
    def current(self) -> str:
        """What it does now."""
        step = self._step
        return step.waits_for or step.name

    def seconds_left(self) -> float:
        """Seconds until the present step is overdue; negative if it is."""
        step = self._step
        return step.since + step.seconds - time.monotonic()

    def overdue(self) -> str:
        """Why the load is given up; empty while it is not."""
        step = self._step
        if self.seconds_left() > 0:
            return ""
        return f"the step {step.name!r} showed no sign of life for {step.seconds:g} s"

    def _go_on(self) -> None:
        if self._abandoned:
            raise LoadFailed("this load was given up")

"""What happened when: printed line by line while it happens, kept for the table at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

_REDRAW_SECONDS = 0.2


class Screen(Protocol):
    """Where the demo prints. Threads may share it."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def live(self, text: str) -> None:
        """The one line at the bottom that is drawn again and again."""


@dataclass(frozen=True)
class RequestCount:
    """Requests that were answered so far, and how many of them failed."""

    requests: int = 0
    failures: int = 0


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        seconds: since the start.
        event, detail: in a few words and in full.
        version: which version it is about, or the empty string.
        requests, failures: until then.
    """

    seconds: float
    act: int
    event: str
    detail: str
    version: str
    requests: int
    failures: int


class Timeline:
    """The events so far, and how long each act took."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._began = time.monotonic()
        self._act = 0
        self.events: list[Event] = []
        self.act_seconds: dict[str, float] = {}
        self.traffic: Callable[[], RequestCount] = RequestCount
        """Counts the requests; set when there are any."""

    def add(self, event: str, version: str = "", detail: str = "") -> None:
        """Record that something has just happened, and print it."""
        seen = self.traffic()
        seconds = round(time.monotonic() - self._began, 1)
        self.events.append(Event(seconds, self._act, event, detail, version, seen.requests, seen.failures))
        self._screen.say(
            f"{seconds:6.1f} s  {version + ' ' if version else ''}{event}{': ' + detail if detail else ''}"
        )

    def show(self, text: str) -> None:
        """Print what a command printed, set off from the lines of the events."""
        for line in text.splitlines():
            self._screen.say(f"          | {line}")

    @contextmanager
    def act(self, title: str) -> Iterator[None]:
        """The next act: its heading, and at its end how long it took."""
        self._act += 1
        self._screen.say(f"\nAct {self._act}. {title}")
        began = time.monotonic()
        try:
            yield
        finally:
            self.act_seconds[f"{self._act}. {title}"] = round(time.monotonic() - began, 1)


@contextmanager
def drawn(screen: Screen, line: Callable[[], str]) -> Iterator[None]:
    """Keep the live line fresh from a thread of its own."""
    done = threading.Event()

    def draw() -> None:
        while not done.wait(_REDRAW_SECONDS):
            screen.live(line())

    thread = threading.Thread(target=draw, name="demo-live-line", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        screen.live("")

"""Since when the threads that read and compute images have been at the same piece of work."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Busy:
    """Says how long nothing got on. The threads that work write, any thread may ask."""

    def __init__(self, readers: int) -> None:
        """`readers` is the number of threads that read."""
        self._readers = readers
        self._reading: dict[int, float] = {}
        self._computing: float | None = None

    def compute(self) -> None:
        """The thread that computes begins a piece of work."""
        self._computing = time.monotonic()

    def rest(self) -> None:
        """It has ended that."""
        self._computing = None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One of the threads that read is at one image."""
        me = threading.get_ident()
        self._reading[me] = time.monotonic()
        try:
            yield
        finally:
            del self._reading[me]

    @property
    def is_computing(self) -> bool:
        """Whether the thread that computes is at something."""
        return self._computing is not None

    @property
    def computing_seconds(self) -> float:
        """How long it has been at that; 0 if at nothing."""
        since = self._computing
        return 0.0 if since is None else time.monotonic() - since

    @property
    def seconds(self) -> float:
        """The same, or how long every one of those that read has been at its image, if that is longer."""
        began = list(self._reading.values())
        reading = time.monotonic() - max(began) if len(began) >= self._readers else 0.0
        return max(self.computing_seconds, reading)

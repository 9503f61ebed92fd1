"""What was read of the store, kept for some seconds: all open browsers share one read."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from registry.errors import Unreachable
from registry.parallel import time_limit

Value = TypeVar("Value")
SECONDS = 8.0
"""How old what is shown may be."""
RETRY_SECONDS = 3.0
"""How long a server that did not answer is left alone."""
FOR_EVER = float("inf")
"""For what never changes: objects that bear their digest as a name."""
_MAX_KEPT = 2_000
_READ_SECONDS = 60.0


@dataclass
class _KeptPlace:
    """A value or an error, and until when it holds. Its lock lets one thread read while others wait for the result."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    until: float = float("-inf")
    value: Any = None
    error: Unreachable | None = None


class KeptReads:
    """Reads by key. Threads may share it; of many keys those that were asked for last are kept."""

    def __init__(self, now: Callable[[], float] = time.monotonic, limit: int = _MAX_KEPT) -> None:
        self._now, self._limit = now, limit
        self._places: OrderedDict[Hashable, _KeptPlace] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], Value], seconds: float = SECONDS) -> Value:
        """The value of `read`, at most so old. That a server does not answer is kept too, for a shorter time.

        Raises:
            UloraError: the one of `read`.
        """
        place = self._place(key)
        with place.lock:
            if self._now() >= place.until:
                self._read(place, read, seconds)
            if place.error is not None:
                raise place.error
            return cast("Value", place.value)

    def forget(self) -> None:
        """Read everything anew: something was changed."""
        with self._lock:
            self._places.clear()

    def _place(self, key: Hashable) -> _KeptPlace:
        with self._lock:
            place = self._places.setdefault(key, _KeptPlace())
            self._places.move_to_end(key)
            while len(self._places) > self._limit:
                self._places.popitem(last=False)
            return place

    def _read(self, place: _KeptPlace, read: Callable[[], Any], seconds: float) -> None:
        place.value = place.error = None
        try:
            with time_limit(_READ_SECONDS):
                place.value = read()
            place.until = self._now() + seconds
        except Unreachable as error:
            place.error = error.with_traceback(None)
            place.until = self._now() + RETRY_SECONDS

"""What the scheduler tells about its batches and rows, to whoever counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from registry.errors import first_line
from registry.serving.loaders import Prediction
from registry.serving.routing import Route

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What a version made of one image: its answer, or its error.

    Attributes:
        compute_seconds: its share of the pass; None if nothing was computed.
        while_reading: whether the error came up before anything was computed.
    """

    answer: Prediction | None = None
    error: BaseException | None = None
    compute_seconds: float | None = None
    while_reading: bool = False


@dataclass(frozen=True, slots=True)
class SettledRow:
    """One image that got its answer or its error.

    Attributes:
        shadow: what the canary of a shadow trial made of it; None if it was not asked.
        seconds: from admission to the answer; None if there was none.
        is_late: whether whoever asked has not waited so long.
        was_shed: whether the canary would have computed it too, had there been time.
    """

    route: Route
    outcome: RowOutcome
    shadow: RowOutcome | None = None
    seconds: float | None = None
    is_late: bool = False
    was_shed: bool = False


class BatchObserver(Protocol):
    """Is told about each batch, in the threads that read and compute: a call must be short and must not raise."""

    def batch_taken(self, waited: Sequence[float]) -> None:
        """Rows are about to be computed together; each has waited for so many seconds since it was admitted."""

    def batch_computed(self, seconds: float) -> None:
        """One pass over rows that got their answers took so long."""

    def settled(self, rows: Sequence[SettledRow]) -> None:
        """Rows got these answers and errors."""


class Observers:
    """Tells several observers, in order. One that fails ends neither the thread that tells it nor what others count.

    Attributes:
        failures: calls that failed. The first one is in the log.
    """

    def __init__(self, *observers: BatchObserver) -> None:
        self._observers = observers
        self.failures = 0

    def batch_taken(self, waited: Sequence[float]) -> None:
        """Tell each of them."""
        self._tell(lambda each: each.batch_taken(waited))

    def batch_computed(self, seconds: float) -> None:
        """Tell each of them."""
        self._tell(lambda each: each.batch_computed(seconds))

    def settled(self, rows: Sequence[SettledRow]) -> None:
        """Tell each of them, row by row, so that an odd row costs no other its count."""
        for row in rows:
            self._tell(lambda each, row=row: each.settled([row]))  # type: ignore[misc]

    def _tell(self, tell: Callable[[BatchObserver], None]) -> None:
        for each in self._observers:
            try:
                tell(each)
            except Exception as error:
                self.failures += 1
                if self.failures == 1:
                    _log.warning("%s could not count: %s", type(each).__name__, first_line(error), exc_info=error)

"""What the scheduler tells about its batches, to whoever counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from registry.serving.loaders import Prediction


class BatchObserver(Protocol):
    """Is told about each batch, in the threads that read and compute: a call must be short and must not raise."""

    def batch_taken(self, waited: Sequence[float]) -> None:
        """Rows are about to be computed together; each has waited for so many seconds since it was admitted."""

    def batch_computed(self, seconds: float) -> None:
        """One pass over rows that got their answers took so long."""

    def answered(self, answers: Sequence[Prediction]) -> None:
        """Rows are about to get these answers."""


class NoObserver:
    """Counts nothing."""

    def batch_taken(self, waited: Sequence[float]) -> None:
        """Do nothing."""

    def batch_computed(self, seconds: float) -> None:
        """Do nothing."""

    def answered(self, answers: Sequence[Prediction]) -> None:
        """Do nothing."""

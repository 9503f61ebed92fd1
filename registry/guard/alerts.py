"""Which findings people are told of, and when."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from registry.guard.finding import GuardFinding

PATIENCE = 30.0
"""Seconds that a reason to hold has to stay until people are told: a replica that starts has no observations yet."""


class Alerts:
    """Knows since when each finding is there. Whether it was told before, the notifiers know."""

    def __init__(self, patience: float = PATIENCE, now: Callable[[], float] = time.monotonic) -> None:
        self._patience, self._now = patience, now
        self._since: dict[str, float] = {}

    def due(self, findings: Iterable[GuardFinding]) -> list[GuardFinding]:
        """Those of the findings of a look that are to be told now."""
        now, told = self._now(), [finding for finding in findings if finding.is_told and finding.counts]
        self._since = {finding.about: self._since.get(finding.about, now) for finding in told}
        return [each for each in told if each.outcome != "hold" or now - self._since[each.about] >= self._patience]

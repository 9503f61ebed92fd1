"""Events for tests of the guard."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from registry.guard.guard_event import GuardEvent

EVENT = GuardEvent(
    model="aads-ulora",
    channel="production",
    generation=12,
    kind="decision",
    version="v5.5.4-dinov3",
    summary="rolled back to v5.5.3",
    reason="error_rate 0.031 > 0.005, E = 213",
    decision="d" * 64,
    when="2026-11-21T12:00:00.000+00:00",
)


def event(**changes: Any) -> GuardEvent:
    return replace(EVENT, **changes)

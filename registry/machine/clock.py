"""Time stamps as documents keep them: UTC, ISO 8601, by this machine's clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

Precision = Literal["seconds", "milliseconds", "microseconds"]


def timestamp(precision: Precision = "milliseconds") -> str:
    """The time now, such as `2026-11-21T12:00:00.000+00:00`."""
    return datetime.now(UTC).isoformat(timespec=precision)

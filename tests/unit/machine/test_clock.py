"""Time stamps have the shape that stored documents have."""

from __future__ import annotations

import re

import pytest

from registry.machine.clock import Precision, timestamp

SECOND = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"


@pytest.mark.parametrize(
    ("precision", "digits"), [("seconds", ""), ("milliseconds", r"\.\d{3}"), ("microseconds", r"\.\d{6}")]
)
def test_a_time_stamp_is_iso_8601_in_utc(precision: Precision, digits: str) -> None:
    assert re.fullmatch(rf"{SECOND}{digits}\+00:00", timestamp(precision))


def test_documents_keep_milliseconds() -> None:
    assert re.fullmatch(rf"{SECOND}\.\d{{3}}\+00:00", timestamp())

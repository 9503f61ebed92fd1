"""Numbers in messages: short, and never equal to a bound that they differ from."""

from __future__ import annotations

import pytest

from registry.evidence.number_text import bound_text, number


@pytest.mark.parametrize(
    ("value", "beside", "text"),
    [
        (0.953488, None, "0.953"),
        (0.953488, 0.95, "0.953"),
        (0.9503, 0.95, "0.9503"),
        (0.9496, 0.95, "0.9496"),
        (0.95, 0.95, "0.950"),
        (34.5678, 50.0, "34.57"),
        (12345.6, None, "12345.6"),
    ],
)
def test_a_number_is_short_unless_it_would_look_like_another(value: float, beside: float | None, text: str) -> None:
    assert number(value, beside) == text


@pytest.mark.parametrize(
    ("bound", "value", "is_relative", "text"),
    [
        (0.0125, 0.5, False, "0.0125"),
        (0.943488, 0.9, True, "0.943"),
        (0.943488, 0.9434, True, "0.943488"),
        (0.943488, None, True, "0.943"),
    ],
)
def test_a_bound_is_exact_if_a_policy_says_it(bound: float, value: float | None, is_relative: bool, text: str) -> None:
    assert bound_text(bound, value, is_relative=is_relative) == text

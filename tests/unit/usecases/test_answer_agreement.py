"""When an answer of a replica is the one that was computed here."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.usecases.answer_agreement import TOLERANCE, disagreement

HERE: dict[str, Any] = {
    "version": "v1.0.0", "target": "low", "label": "healthy", "outcome": "answer", "is_ood": False, "confidence": 0.8,
    "ood_score": 4.0, "target_confidence": 1.0, "probabilities": {"healthy": 0.8, "sick": 0.2}, "blocks_used": 4,
}  # fmt: skip


def changed(**fields: Any) -> dict[str, Any]:
    return {**HERE, **fields}


@given(st.floats(-0.99 * TOLERANCE, 0.99 * TOLERANCE), st.floats(-0.19, 0.19))
def test_small_differences_agree(little: float, of_the_score: float) -> None:
    near = {"healthy": 0.8 + little, "sick": 0.2 - little}
    there = changed(confidence=0.8 + little, ood_score=4.0 + of_the_score, probabilities=near)
    assert disagreement(HERE, there) == ""


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (changed(confidence=0.7), "confidence is 0.7, here 0.8"),
        (changed(ood_score=5.0), "ood_score"),
        (changed(ood_score=None), "ood_score is None, here 4.0"),
        (changed(confidence=float("nan")), "confidence"),
        (changed(probabilities={"healthy": 0.5, "sick": 0.5}), "probability of healthy"),
        (changed(probabilities={"healthy": 0.8}), "probability of sick is None"),
        (changed(probabilities=[0.8, 0.2]), "probability"),
        (changed(label="sick", confidence=0.7), "label is 'sick', here 'healthy'"),
        (changed(target="high", probabilities={"other": 1.0}), "target is 'high'"),
        ({}, "target is None"),
    ],
)
def test_what_differs_is_named(there: dict[str, Any], says: str) -> None:
    assert says in disagreement(HERE, there)


def test_a_decision_that_was_too_close_to_call_is_none() -> None:
    tie = changed(confidence=0.5, probabilities={"healthy": 0.51, "sick": 0.49})
    other = changed(label="sick", confidence=0.5, probabilities={"healthy": 0.49, "sick": 0.51})
    assert disagreement(tie, other) == ""


def test_answers_without_numbers_are_compared_by_their_decisions() -> None:
    assert disagreement({"label": "a"}, {"label": "a", "more": 1}) == ""
    assert "label" in disagreement({"label": "a"}, {"label": "b"})

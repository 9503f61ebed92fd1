"""Answers are equal if they differ by no more than float32 does between batches of different sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

NUMBERS = {"confidence", "target_confidence", "ood_score", "probabilities"}
_OF_HTTP = ("manifest_sha256", "arm", "sticky", "request_id")
"""What an answer over HTTP has beside a prediction."""


def prediction_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The prediction that an answer over HTTP tells."""
    return {name: value for name, value in answer.items() if name not in _OF_HTTP}


def assert_equal_answers(answer: Mapping[str, Any], quiet: Mapping[str, Any]) -> None:
    """Compare two answers as `to_dict` gives them, the first one also as HTTP does; the second was computed alone."""
    answer = prediction_of(answer)
    assert answer.keys() == quiet.keys()
    assert {name: answer[name] for name in answer.keys() - NUMBERS} == {
        name: quiet[name] for name in quiet.keys() - NUMBERS
    }
    for name in NUMBERS & quiet.keys():
        assert answer[name] == pytest.approx(quiet[name], rel=1e-3, abs=1e-3)

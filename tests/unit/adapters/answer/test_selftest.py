"""How far outputs may differ from the recorded ones: more for large numbers, in proportion, and never by a label."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapters.answer.selftest import difference, golden_fault
from adapters.bundle import DEFAULT_INFERENCE

TOLERANCE = DEFAULT_INFERENCE["tolerance"]["torch-fp32"]


def compared(actual: dict[str, list[float]], recorded: dict[str, list[float]]) -> str:
    """For one image; scores are [1], the others rows."""

    def arrays(outputs: dict[str, list[float]]) -> dict[str, np.ndarray]:
        return {name: np.array(row if name == "ood_score" else [row], np.float32) for name, row in outputs.items()}

    golden = {name: torch.from_numpy(array) for name, array in arrays(recorded).items()}
    return difference(arrays(actual), golden, TOLERANCE)


@pytest.mark.parametrize(
    ("recorded", "passes", "fails"),
    [(2.0, 0.0009, 0.0012), (10.0, 0.0009, 0.0012), (1000.0, 0.09, 0.12)],
)
def test_logits_differ_by_a_ten_thousandth_at_most(recorded: float, passes: float, fails: float) -> None:
    assert compared({"logits": [recorded + passes, 1]}, {"logits": [recorded, 1]}) == ""
    assert compared({"logits": [recorded, 1 + passes]}, {"logits": [recorded, 1]}) == "", "the largest of a row counts"
    assert compared({"logits": [recorded + fails, 1]}, {"logits": [recorded, 1]}).startswith("logits differ by")


@pytest.mark.parametrize(("recorded", "passes", "fails"), [(0.5, 0.009, 0.012), (-3000.0, 29.0, 31.0)])
def test_scores_differ_by_a_hundredth_at_most(recorded: float, passes: float, fails: float) -> None:
    logits: dict[str, list[float]] = {"logits": [2, 1]}
    assert compared(logits | {"ood_score": [recorded + passes]}, logits | {"ood_score": [recorded]}) == ""
    assert "ood_score differ" in compared(
        logits | {"ood_score": [recorded + fails]}, logits | {"ood_score": [recorded]}
    )


def test_without_logits_the_features_are_compared() -> None:
    assert compared({"features": [2.0005, 1]}, {"features": [2, 1]}) == ""
    assert compared({"features": [2.002, 1]}, {"features": [2, 1]}).startswith("features differ by")
    assert compared({"features": [float("nan"), 1]}, {"features": [2, 1]}).startswith("features differ by")


def test_other_runtimes_are_compared_without_logits_too() -> None:
    recorded = {"features": np.array([[1.0, 2.0, 3.0]])}
    assert golden_fault({"features": np.array([[1.0, 2.0, 3.001]])}, recorded) == ""
    assert "cosine" in golden_fault({"features": np.array([[3.0, 2.0, 1.0]])}, recorded)

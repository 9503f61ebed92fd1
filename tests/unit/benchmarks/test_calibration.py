"""The calibration error, held against a direct computation, and at its edges."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy import accuracy
from benchmarks.calibration import BINS, Answers, calibration_error
from registry.evidence.outcomes import ImageOutcome
from tests.unit.benchmarks.predictors import Album, Player, pictures


def answered(probability: float | None, right: bool, number: int = 0) -> ImageOutcome:
    label = None if probability is None else "rust" if right else "blight"
    return ImageOutcome(
        image=f"{number:064x}", target="low", label="rust", answered_label=label, probability=probability
    )


def direct(outcomes: list[ImageOutcome]) -> float:
    """The definition, bin by bin."""
    told = [one for one in outcomes if one.probability is not None]
    total = 0.0
    for m in range(1, BINS + 1):
        inside = [
            one
            for one in told
            if one.probability is not None
            and ((m - 1) / BINS < one.probability <= m / BINS or (m == 1 and one.probability == 0))
        ]
        if inside:
            share = sum(one.answered_label == one.label for one in inside) / len(inside)
            mean = math.fsum(one.probability or 0 for one in inside) / len(inside)
            total += len(inside) / len(told) * abs(share - mean)
    return total


probabilities = st.one_of(st.floats(0, 1), st.integers(0, BINS).map(lambda m: m / BINS))


@given(st.lists(st.tuples(probabilities, st.booleans()), min_size=1, max_size=30))
def test_the_error_is_what_the_definition_says(drawn: list[tuple[float, bool]]) -> None:
    outcomes = [answered(probability, right, number) for number, (probability, right) in enumerate(drawn)]
    found = calibration_error(outcomes, "low", 0)
    assert found.value == pytest.approx(direct(outcomes), abs=1e-9)
    assert found.low is not None
    assert found.value is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert (found.n, found.target) == (len(drawn), "low")


@pytest.mark.parametrize(
    ("probability", "right", "value"), [(1.0, True, 0), (1.0, False, 1), (0.0, True, 1), (0.75, True, 0.25)]
)
def test_one_image_is_as_wrong_as_its_probability(probability: float, right: bool, value: float) -> None:
    assert calibration_error([answered(probability, right)], None, 0).value == pytest.approx(value)


def test_a_probability_of_one_is_in_the_last_bin() -> None:
    outcomes = [answered(p, True) for p in (0.0, 1 / 15, 0.0667, 14 / 15, 0.9999, 1.0)]
    assert list(Answers.of(outcomes).bins) == [0, 0, 1, 13, 14, 14]


def test_images_without_an_answer_do_not_count() -> None:
    some = [answered(0.9, True, 1), answered(0.6, False, 2)]
    assert calibration_error([*some, answered(None, False, 3)], None, 0) == calibration_error(some, None, 0)
    nothing = calibration_error([answered(None, False)], None, 0)
    assert (nothing.value, nothing.low, nothing.n) == (None, None, 0)


def test_the_lower_end_allows_for_noise_that_counts_as_error() -> None:
    random = np.random.default_rng(1)
    shares = random.uniform(0.5, 1, 300)
    outcomes = [answered(float(share), bool(random.random() < share), n) for n, share in enumerate(shares)]
    found = calibration_error(outcomes, None, 0)
    assert found.low is not None
    assert found.value is not None
    assert found.high is not None
    assert found.low <= max(0.0, 2 * found.value - found.high) < found.value


def test_the_benchmark_reports_it_for_every_target() -> None:
    album = Album(Path("images"), pictures({("low", "a"): 3, ("mid", "b"): 2}))
    player = Player({"low": ["a"], "mid": ["b"]})
    measured = accuracy(player, album)
    found = {one.target: one.value for one in measured.metrics if one.name == "ece"}
    assert found == {None: pytest.approx(0.1), "low": pytest.approx(0.1), "mid": pytest.approx(0.1)}

"""Bounds of the difference between two versions on the same images: what they are, and how often they err."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from registry.evidence.paired_stats import (
    PairedCounts,
    area_difference,
    highest_difference,
    lowest_difference,
    n_that_decides_pairs,
)
from registry.evidence.stats import upper_bound

MARGIN = 0.02


def passes(n: int, newer_only: float, older_only: float) -> float:
    """The exact probability that a version with these shares of differing pairs is found to be within the margin."""
    total = 0.0
    for older in range(int(binom.ppf(1 - 1e-6, n, older_only)) + 1):
        share = newer_only / (1 - older_only)
        for newer in range(int(binom.ppf(1 - 1e-6, n - older, share)) + 1 if share else 1):
            if lowest_difference(PairedCounts(newer, older, n), 0.95) >= -MARGIN:
                total += binom.pmf(older, n, older_only) * (binom.pmf(newer, n - older, share) if share else 1.0)
    return total


@pytest.mark.parametrize("n", [100, 300])
@pytest.mark.parametrize("newer_only", [0.0, 0.002, 0.01, 0.03])
def test_a_drop_of_the_margin_passes_one_time_in_twenty(n: int, newer_only: float) -> None:
    assert passes(n, newer_only, newer_only + MARGIN) <= 0.05


def test_three_hundred_images_find_no_drop_in_most_cases() -> None:
    assert passes(300, 0.015, 0.015) >= 0.55
    assert passes(300, 0.005, 0.005) >= 0.8


@pytest.mark.parametrize(("newer", "older", "n"), [(12, 2, 50), (3, 7, 300), (1, 30, 400)])
def test_the_bound_is_where_the_score_reaches_the_limit(newer: int, older: int, n: int) -> None:
    def score(difference: float) -> float:
        def unlikely(share: float) -> float:
            both = math.log(1 - difference - 2 * share) * (n - newer - older)
            return -(newer * math.log(share + difference) + older * math.log(share) + both)

        bounds = (max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
        share = minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x
        return (newer - older - n * difference) / math.sqrt(n * (2 * share + difference * (1 - difference)))

    bound = lowest_difference(PairedCounts(newer, older, n), 0.95)
    assert score(bound) == pytest.approx(1.6449, abs=1e-3)


def test_without_gains_the_bound_is_that_of_a_proportion() -> None:
    assert lowest_difference(PairedCounts(0, 2, 300), 0.95) == -upper_bound(2, 300)
    assert lowest_difference(PairedCounts(0, 0, 300), 0.95) == pytest.approx(-0.00994, abs=1e-4)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(61, 500))
def test_the_bounds_hold_the_difference_and_mirror_each_other(newer: int, older: int, n: int) -> None:
    counts = PairedCounts(newer, older, n)
    low, high = lowest_difference(counts, 0.95), highest_difference(counts, 0.95)
    assert -1 <= low <= counts.difference <= high <= 1
    assert low == -highest_difference(PairedCounts(older, newer, n), 0.95)
    assert lowest_difference(PairedCounts(newer + 1, older, n), 0.95) >= low
    assert lowest_difference(PairedCounts(newer, older + 1, n), 0.95) <= low


@pytest.mark.parametrize("counts", [PairedCounts(3, 3, 5), PairedCounts(0, 0, 0), PairedCounts(-1, 2, 5)])
def test_counts_that_are_none_are_refused(counts: PairedCounts) -> None:
    with pytest.raises(ValueError, match="are no counts"):
        lowest_difference(counts, 0.95)


@pytest.mark.parametrize("confidence", [0.4, 1.0])
def test_a_confidence_that_is_none_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="is not between"):
        lowest_difference(PairedCounts(1, 1, 10), confidence)


def test_the_number_of_images_that_decides_does() -> None:
    counts = PairedCounts(6, 7, 300)
    wanted = n_that_decides_pairs(counts, MARGIN, 0.95)
    assert wanted is not None
    grown = PairedCounts(round(6 * wanted / 300), round(7 * wanted / 300), wanted)
    assert lowest_difference(grown, 0.95) >= -MARGIN
    assert n_that_decides_pairs(PairedCounts(0, 6, 300), MARGIN, 0.95) is None


def lowest_area(
    newer: tuple[list[float], list[float]], older: tuple[list[float], list[float]], confidence: float
) -> float:
    return area_difference(newer, older, confidence)[1]


@pytest.mark.parametrize("counts", [PairedCounts(0, 199, 10_000), PairedCounts(0, 1_999, 100_000)])
def test_a_drop_close_to_the_margin_is_told_no_number(counts: PairedCounts) -> None:
    assert n_that_decides_pairs(counts, MARGIN, 0.95) is None


def scores(rng: np.random.Generator, shift: float, n: int = 200) -> tuple[list[float], list[float]]:
    return rng.normal(0, 1, n).tolist(), rng.normal(shift, 1, n).tolist()


def test_the_bound_of_an_area_difference_covers_it() -> None:
    """Two detectors with the same true area, whose scores of an image are correlated."""
    rng = np.random.default_rng(5)
    above = 0
    for _ in range(400):
        common = [rng.normal(0, 1, 100), rng.normal(2, 1, 100)]
        one, other = ([(side + rng.normal(0, 0.7, 100)).tolist() for side in common] for _ in range(2))
        above += lowest_area((one[0], one[1]), (other[0], other[1]), 0.95) > 0
    assert above / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_a_worse_detector_has_a_lower_bound_below_nothing() -> None:
    rng = np.random.default_rng(1)
    assert lowest_area(scores(rng, 1.0), scores(rng, 3.0), 0.95) < -0.1
    assert lowest_area(scores(rng, 3.0), scores(rng, 1.0), 0.95) > 0.1


def test_two_perfect_detectors_are_not_surely_equal() -> None:
    perfect = ([0.0, 0.1] * 50, [1.0, 1.1] * 50)
    assert lowest_area(perfect, perfect, 0.95) == pytest.approx(-0.0263, abs=1e-3)


def test_other_images_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="are no pairs"):
        lowest_area(([0.1] * 5, [0.2] * 5), ([0.1] * 4, [0.2] * 5), 0.95)

"""Intervals and sample sizes, against scipy and published values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from registry.evidence.stats import n_that_decides, wilson

LEVELS = st.sampled_from([0.8, 0.9, 0.95, 0.99])


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 100_000))
    return draw(st.integers(0, n)), n


@given(counts(), LEVELS)
def test_wilson_agrees_with_scipy(count: tuple[int, int], level: float) -> None:
    k, n = count
    theirs = binomtest(k, n).proportion_ci(level, method="wilson")
    ours = wilson(k, n, level)
    assert ours.low == pytest.approx(theirs.low, abs=1e-9)
    assert ours.high == pytest.approx(theirs.high, abs=1e-9)


@given(counts(), LEVELS)
def test_wilson_is_within_0_and_1_and_contains_the_proportion(count: tuple[int, int], level: float) -> None:
    k, n = count
    interval = wilson(k, n, level)
    assert 0 <= interval.low <= k / n <= interval.high <= 1


def test_wilson_of_nothing_knows_nothing() -> None:
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0, 1)


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (1, 0)])
def test_wilson_refuses_counts_that_are_not_a_proportion(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(k, n)


@pytest.mark.parametrize("level", [0, 1, -0.5, 2])
def test_wilson_refuses_a_confidence_outside_0_and_1(level: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        wilson(1, 2, level)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_n_that_decides_is_the_first_n_that_excludes_the_bound(proportion: float, bound: float) -> None:
    if abs(proportion - bound) < 1e-3:
        return
    n = n_that_decides(proportion, bound)
    assert n is not None

    def gap(size: int) -> float:
        """How far the bound lies outside the interval around the proportion; negative inside."""
        interval = wilson(proportion * size, size)
        return max(interval.low - bound, bound - interval.high)

    assert gap(n) > -1e-9
    if n > 1:
        assert gap(n - 1) < 1e-9


def test_n_that_decides_says_what_98_percent_against_95_needs() -> None:
    assert n_that_decides(0.98, 0.95) == math.floor(1.959964**2 * 0.95 * 0.05 / 0.03**2) + 1 == 203


@given(st.floats(0, 1))
def test_no_n_decides_when_the_proportion_is_the_bound(proportion: float) -> None:
    assert n_that_decides(proportion, proportion) is None


@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_one_sample_fails_a_bound_without_exceptions(bound: float) -> None:
    assert n_that_decides(0.5, bound) == 1

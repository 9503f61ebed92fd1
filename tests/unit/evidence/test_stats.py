"""Intervals and sample sizes, against scipy and published values."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import beta, binomtest, t

from registry.evidence.stats import (
    Interval,
    mean_interval,
    n_that_bounds,
    n_that_decides,
    student_quantile,
    upper_bound,
    wilson,
)

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


# --- the one-sided bound of Clopper and Pearson ----------------------------------------------------------------------


@given(counts(), LEVELS)
@example((0, 299), 0.95)
@example((99_999, 100_000), 0.95)
def test_the_upper_bound_is_a_quantile_of_the_beta_distribution(count: tuple[int, int], level: float) -> None:
    k, n = count
    theirs = 1.0 if k == n else beta.ppf(level, k + 1, n - k)
    assert upper_bound(k, n, level) == pytest.approx(theirs, rel=1e-7)


@pytest.mark.parametrize(("count", "n"), [(0, 299), (1, 473), (2, 628)])
def test_299_473_628_images_bound_0_1_2_flips_by_1_percent(count: int, n: int) -> None:
    assert n_that_bounds(count, 0.01) == n
    assert upper_bound(count, n) <= 0.01 < upper_bound(count, n - 1)


@pytest.mark.parametrize(("n", "asked", "promised"), [(100, 0.03, 0.052), (300, 0.03, 0.043), (1000, 0.03, 0.037)])
def test_the_90_percent_bound_of_a_conformal_threshold_is_known(n: int, asked: float, promised: float) -> None:
    rank = math.ceil((n + 1) * (1 - asked))
    assert upper_bound(n - rank, n, 0.9) == pytest.approx(beta.ppf(0.9, n + 1 - rank, rank), rel=1e-7)
    assert round(upper_bound(n - rank, n, 0.9), 3) == promised


@pytest.mark.parametrize(("count", "n"), [(-1, 3), (4, 3)])
def test_the_upper_bound_refuses_counts_that_are_no_proportion(count: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a proportion"):
        upper_bound(count, n)


@pytest.mark.parametrize("bound", [0, 1, -0.1])
def test_no_n_bounds_a_share_by_nothing_or_everything(bound: float) -> None:
    with pytest.raises(ValueError, match="bound"):
        n_that_bounds(0, bound)


def test_one_proportion_has_at_least_its_own_interval() -> None:
    own = wilson(45, 50)
    found = mean_interval([0.9], [own], [50])
    corrected = binomtest(45, 50).proportion_ci(method="wilsoncc")
    assert found.low == pytest.approx(min(own.low, corrected.low))
    assert found.high == pytest.approx(max(own.high, corrected.high))


def test_a_mean_of_nothing_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([], [], [])
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([0.5], [Interval(0, 1)], [0])


@pytest.mark.parametrize("freedom", [1, 2, 5.5, 22.08, 1000])
@pytest.mark.parametrize("tail", [0.3, 0.025, 0.00625, 5e-5])
def test_quantiles_of_student_s_t_are_those_of_scipy(tail: float, freedom: float) -> None:
    assert student_quantile(tail, freedom) == pytest.approx(t.isf(tail, freedom), rel=1e-5)


@pytest.mark.parametrize(
    ("tail", "freedom"), [(0.5, 3), (0.0, 3), (0.1, 0.5), (0.1, float("nan")), (0.1, float("inf"))]
)
def test_a_quantile_that_there_is_not_is_refused(tail: float, freedom: float) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        student_quantile(tail, freedom)

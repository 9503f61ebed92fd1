"""The difference between two versions in a trial, against other implementations."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from registry.evidence.arm_stats import apart, paired, sign_test
from registry.trials.counts import UnitPairs
from registry.trials.evalues import Rate


@st.composite
def rates(draw: st.DrawFn) -> Rate:
    n = draw(st.integers(1, 5000))
    return Rate(draw(st.integers(0, n)), n)


def test_the_interval_is_newcombes() -> None:
    # Newcombe (1998), table II, method 10: 56 of 70 and 48 of 80, and 9 of 10 and 3 of 10.
    for mine, other, ends in (
        (Rate(56, 70), Rate(48, 80), (0.0524, 0.3339)),
        (Rate(9, 10), Rate(3, 10), (0.1705, 0.8090)),
    ):
        found = apart([(mine, other)], 0.05)
        assert found
        assert (found.low, found.high) == pytest.approx(ends, abs=1e-4)


@given(rates(), rates())
def test_the_test_of_one_stage_is_that_of_two_proportions(mine: Rate, other: Rate) -> None:
    found = apart([(mine, other)], 0.05)
    assert found
    table = [[mine.x, mine.n - mine.x], [other.x, other.n - other.x]]
    if 0 < mine.x + other.x < mine.n + other.n:
        assert found.p_value == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, abs=1e-9)
    else:
        assert found.p_value == 1
    assert -1 <= found.low <= found.value <= found.high <= 1


def test_a_season_is_no_difference() -> None:
    # In the second stage half of the keys are the canary's, and everything errs more often.
    stages = [(Rate(10, 1000), Rate(90, 9000)), (Rate(500, 5000), Rate(500, 5000))]
    found, pooled = apart(stages, 0.05), apart([(Rate(510, 6000), Rate(590, 14000))], 0.05)
    assert found
    assert pooled
    assert (found.value, found.p_value) == (0, 1)
    assert pooled.p_value < 1e-9


def test_stages_without_units_do_not_count() -> None:
    one = (Rate(3, 100), Rate(5, 100))
    assert apart([one, (Rate(0, 0), Rate(5, 100))], 0.05) == apart([one], 0.05)
    assert apart([(Rate(0, 0), Rate(0, 0))], 0.05) is None
    assert paired(UnitPairs(0, 0, 0, 0), 0.05) is None


@given(st.integers(0, 400), st.integers(0, 400))
def test_the_sign_test_is_the_binomial_one(x: int, more: int) -> None:
    expected = stats.binomtest(x, x + more).pvalue if x + more else 1
    assert sign_test(Rate(x, x + more)) == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300), st.integers(1, 3000))
def test_pairs_mirror_when_the_versions_change_places(one: int, other: int, both: int, none: int) -> None:
    n = one + other + both + none
    found, mirrored = paired(UnitPairs(one, other, both, n), 0.05), paired(UnitPairs(other, one, both, n), 0.05)
    assert found
    assert mirrored
    assert found.value == pytest.approx((one - other) / n)
    assert (found.low, found.high) == (pytest.approx(-mirrored.high), pytest.approx(-mirrored.low))
    assert found.low <= found.value <= found.high
    assert found.p_value == mirrored.p_value


def test_equal_versions_differ_significantly_as_often_as_said() -> None:
    chance = Random(20261201)
    stages = ((600, 1400, 0.05), (1000, 1000, 0.09))

    def drawn(n: int, share: float) -> Rate:
        return Rate(sum(chance.random() < share for _ in range(n)), n)

    found = [apart([(drawn(a, p), drawn(b, p)) for a, b, p in stages], 0.05) for _ in range(300)]
    assert (
        sum(each is not None and each.p_value < 0.05 for each in found) <= 300 * 0.05 + 3 * (300 * 0.05 * 0.95) ** 0.5
    )
    assert sum(each is not None and each.low <= 0 <= each.high for each in found) >= 300 * 0.92

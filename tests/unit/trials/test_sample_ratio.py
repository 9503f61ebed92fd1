"""The sample ratio: against scipy, how often right shares are called broken, and that wrong ones are."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, binom, chisquare

from registry.trials.evalues import ArmEvents
from registry.trials.sample_ratio import sample_ratio

SHARES = st.sampled_from([0.01, 0.1, 0.5, 0.9])


@st.composite
def counts(draw: st.DrawFn) -> ArmEvents:
    n = draw(st.integers(1, 60_000))
    return ArmEvents(draw(st.integers(0, n)), n, draw(SHARES))


@given(counts())
def test_the_bayes_factor_is_that_of_scipy(one: ArmEvents) -> None:
    prior = betabinom.logpmf(one.x, one.n, 100 * one.share, 100 * (1 - one.share))
    expected = prior - binom.logpmf(one.x, one.n, one.share)
    if math.isfinite(expected):
        assert sample_ratio(one).log_bayes == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(counts())
def test_the_p_value_is_that_of_scipy(one: ArmEvents) -> None:
    expected = [one.n * one.share, one.n * (1 - one.share)]
    assert sample_ratio(one).p_value == pytest.approx(
        chisquare([one.x, one.n - one.x], expected).pvalue, rel=1e-6, abs=1e-11
    )


def test_no_units_are_not_broken() -> None:
    found = sample_ratio(ArmEvents(0, 0, 0.1))
    assert (found.log_bayes, found.p_value, found.is_broken_at_the_end) == (0.0, 1.0, False)


def test_right_shares_are_rarely_broken() -> None:
    broken = 0
    for seed in range(60):
        draw, x = random.Random(seed), 0
        for n in range(200, 5001, 200):
            x += sum(draw.random() < 0.1 for _ in range(200))
            if sample_ratio(ArmEvents(x, n, 0.1)).is_broken:
                broken += 1
                break
    assert broken <= 1


def test_wrong_shares_are_broken() -> None:
    assert sample_ratio(ArmEvents(650, 5000, 0.1)).is_broken
    assert sample_ratio(ArmEvents(350, 5000, 0.1)).is_broken
    assert not sample_ratio(ArmEvents(520, 5000, 0.1)).is_broken_at_the_end
    assert sample_ratio(ArmEvents(571, 5000, 0.1)).is_broken_at_the_end


def test_the_same_counts_give_the_same_bits() -> None:
    assert sample_ratio(ArmEvents(650, 5000, 0.1)).log_bayes.hex() == "0x1.48f0f54575d0fp+4"

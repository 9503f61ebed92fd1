"""Logarithms that have the same bits on every machine, against those of `math` and scipy."""

import decimal
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammaln, logsumexp

from registry.trials.exact import ln, log_gamma, log_mean


@given(st.floats(1e-300, 1e300))
def test_logarithms_are_those_of_math(number: float) -> None:
    assert ln(Decimal(number)) == pytest.approx(math.log(number), rel=1e-15, abs=1e-15)


@given(st.floats(1e-3, 1e7))
def test_log_gamma_is_that_of_scipy(number: float) -> None:
    assert float(log_gamma(Decimal(number))) == pytest.approx(float(gammaln(number)), rel=1e-13, abs=1e-13)


@given(st.lists(st.floats(-2000, 2000), min_size=1, max_size=20))
def test_the_mean_of_logarithms_is_that_of_scipy(logs: list[float]) -> None:
    assert log_mean(logs) == pytest.approx(float(logsumexp(logs)) - math.log(len(logs)), rel=1e-12, abs=1e-12)


def test_the_decimal_context_of_others_changes_nothing() -> None:
    found = ln(Decimal(3)), log_mean([1.0, 2.0]), log_gamma(Decimal("7.5"))
    with decimal.localcontext() as context:
        context.prec, context.rounding = 3, decimal.ROUND_UP
        assert (ln(Decimal(3)), log_mean([1.0, 2.0]), log_gamma(Decimal("7.5"))) == found

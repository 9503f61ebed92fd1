"""Logarithms with the same bits on every machine: in decimal arithmetic, rounded to a float at the end.

Those of `math` are the C library's, whose last bit differs between machines; a decision is computed again anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_EVEN, Context, Decimal

CONTEXT = Context(prec=30, rounding=ROUND_HALF_EVEN, Emin=MIN_EMIN, Emax=MAX_EMAX)
_HALF_LOG_TWO_PI = Decimal("0.918938533204672741780329736406")
_STIRLING = tuple(CONTEXT.divide(Decimal(1), Decimal(number)) for number in (12, -360, 1260, -1680, 1188))
"""The first coefficients of Stirling's series: Abramowitz and Stegun, Handbook of Mathematical Functions, 6.1.41."""
_LARGE = 30
_NOTHING = -50.0
"""The exponential of less adds nothing to 1."""


def ln(number: Decimal) -> float:
    """The natural logarithm."""
    return float(number.ln(CONTEXT))


def log_mean(logs: Sequence[float]) -> float:
    """The logarithm of the mean of numbers that are given by their logarithms."""
    top = max(logs)
    total = math.fsum(_exp(each - top) for each in logs)
    return top + ln(CONTEXT.divide(Decimal(total), Decimal(len(logs))))


def log_gamma(number: Decimal) -> Decimal:
    """The logarithm of the gamma function of a number above 0, to about 18 digits: by Stirling's series, for small
    numbers after steps of Γ(z + 1) = z Γ(z)."""
    c, z, product = CONTEXT, number, Decimal(1)
    while z < _LARGE:
        product, z = c.multiply(product, z), c.add(z, 1)
    power, square = c.divide(1, z), c.multiply(z, z)
    found = c.add(c.subtract(c.multiply(c.subtract(z, Decimal("0.5")), c.ln(z)), z), _HALF_LOG_TWO_PI)
    for coefficient in _STIRLING:
        found, power = c.fma(coefficient, power, found), c.divide(power, square)
    return c.subtract(found, c.ln(product))


def _exp(number: float) -> float:
    return float(Decimal(number).exp(CONTEXT)) if number > _NOTHING else 0.0

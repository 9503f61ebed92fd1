"""Confidence intervals of proportions, and the number of samples that decides. Standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

CONFIDENCE = 0.95
"""The two-sided confidence level of the intervals in evidence, unless another one is documented."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval, both ends included."""

    low: float
    high: float


def wilson(successes: float, n: int, confidence: float = CONFIDENCE) -> Interval:
    """The Wilson score interval of a proportion.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927), 209.
    It is within [0, 1], contains successes / n, and is accurate for proportions near 1, such as accuracies.

    Args:
        successes: the number of successes, 0 to n.
        n: the number of samples. For 0 the interval is [0, 1].

    Raises:
        ValueError: `successes` is not in 0..n, or `confidence` not between 0 and 1.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is not a proportion")
    if n == 0:
        return Interval(0.0, 1.0)
    p, z2 = successes / n, _z(confidence) ** 2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # Rounding must not move an end beyond 0, 1, or the proportion itself.
    return Interval(min(max(0.0, middle - half), p), max(min(1.0, middle + half), p))


def n_that_decides(proportion: float, bound: float, confidence: float = CONFIDENCE) -> int | None:
    """The smallest n at which the Wilson interval around this proportion no longer contains the bound.

    The Wilson interval inverts the score test, so it excludes `bound` if and only if
    |proportion - bound| > z sqrt(bound (1 - bound) / n); this solves that for n.

    Args:
        proportion: the observed one, 0 to 1, which is expected not to change.
        bound: the value that it is compared with.

    Returns:
        The n, or None if the proportion equals the bound, so that no n decides.
    """
    gap = abs(proportion - bound)
    if gap == 0:
        return None
    if not 0 < bound < 1:
        return 1
    needed = _z(confidence) ** 2 * bound * (1 - bound) / gap / gap
    return math.floor(needed) + 1 if math.isfinite(needed) else None


@cache
def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)

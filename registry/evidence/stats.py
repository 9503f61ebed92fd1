"""Confidence intervals of proportions, and the number of samples that decides. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def mean_interval(
    values: Sequence[float], intervals: Sequence[Interval], counts: Sequence[float], *, dependence: float = 1.0
) -> Interval:
    """The 95% interval of the plain mean of estimated proportions, e.g. of the recalls of all classes.

    It spans two intervals, because each covers too little where the other one is good:

    * each value's own interval, combined: the distances to their ends are added as standard errors are. G. Y. Zou and
      A. Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 27 (2008), 1693.
      With few samples of each value and few errors it is too narrow.
    * Wilson's interval with continuity correction of a proportion equal to the mean, for the number of samples that
      gives a mean of equal proportions the same variance. R. G. Newcombe, "Two-sided confidence intervals for the
      single proportion", Statistics in Medicine 17 (1998), 857, method 4.

    Args:
        values: the estimates, 0 to 1.
        intervals: the interval of each.
        counts: the number of samples behind each value; those of 0 do not count.
        dependence: the variance of a sum of the values, divided by the sum of their variances; 1 if independent.

    Raises:
        ValueError: there is no value, or no samples.
    """
    weights = [1 / count for count in counts if count]
    if not values or not weights:
        raise ValueError("a mean needs at least one value and its samples")
    mean = math.fsum(values) / len(values)
    pairs = list(zip(values, intervals, strict=True))
    down, up = (
        math.sqrt(dependence * math.fsum(gap * gap for gap in gaps)) / len(values)
        for gaps in ([value - each.low for value, each in pairs], [each.high - value for value, each in pairs])
    )
    pooled = _corrected_wilson(min(1.0, mean), len(weights) ** 2 / math.fsum(weights))
    return Interval(max(0.0, min(mean - down, pooled.low)), min(1.0, max(mean + up, pooled.high)))


def upper_bound(count: int, n: int, confidence: float = CONFIDENCE) -> float:
    """The one-sided Clopper-Pearson upper bound of a proportion: the largest p with P(Binomial(n, p) <= count) of at
    least 1 - confidence.

    Source: C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the
    binomial", Biometrika 26 (1934), 404. It is the quantile `confidence` of Beta(count + 1, n - count).

    Args:
        count: how many of `n` samples had it, 0 to n.

    Raises:
        ValueError: `count` is not in 0..n, or `confidence` not between 0 and 1.
    """
    _check_counts(count, n, confidence)
    if count == n:
        return 1.0
    low, high = count / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_tail(count, n, middle) > 1 - confidence else (low, middle)
    return high


def n_that_bounds(count: int, bound: float, confidence: float = CONFIDENCE) -> int:
    """The smallest n whose `upper_bound` with this count is at most `bound`: 299, 473, 628 for 0, 1, 2 and 0.01.

    Raises:
        ValueError: `bound` is not between 0 and 1.
    """
    if not 0 < bound < 1:
        raise ValueError(f"bound {bound} is not between 0 and 1")
    low, high = count, max(1, count)
    while binomial_tail(count, high, bound) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if binomial_tail(count, middle, bound) > 1 - confidence else (low, middle)
    return high


@cache
def student_quantile(tail: float, freedom: float) -> float:
    """The value above 0 that Student's t exceeds with probability `tail`.

    The density in the angle whose tangent is t / sqrt(freedom) is proportional to cos^(freedom - 1): it is integrated
    by Simpson's rule, and the angle found by bisection.

    Args:
        tail: above 0, below 0.5.
        freedom: degrees of freedom, 1 or more; need not be whole.

    Raises:
        ValueError: one of them is out of its range.
    """
    if not 0 < tail < 0.5 or not freedom >= 1 or math.isinf(freedom):
        raise ValueError(f"there is no quantile for a tail of {tail} and {freedom} degrees of freedom")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_tail(middle, freedom) > tail else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _student_tail(angle: float, freedom: float, steps: int = 200) -> float:
    """P(t > sqrt(freedom) tan(angle)); 12 standard deviations beyond it nothing is left to add."""
    top = min(math.pi / 2, angle + 12 / math.sqrt(freedom))
    width = (top - angle) / steps
    weights = [1, *(4 if step % 2 else 2 for step in range(1, steps)), 1]
    heights = [max(0.0, math.cos(angle + step * width)) ** (freedom - 1) for step in range(steps + 1)]
    area = width / 3 * math.fsum(weight * height for weight, height in zip(weights, heights, strict=True))
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return scale * area


def binomial_tail(count: int, n: int, p: float) -> float:
    """P(Binomial(n, p) <= count) for 0 < p < 1; accurate where count is below the mean, n p."""
    if count >= n:
        return 1.0
    logarithm = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    term = math.exp(logarithm + count * math.log(p) + (n - count) * math.log1p(-p)) if p < 1 else 0.0
    total, number = 0.0, count
    while number >= 0 and term > total * 1e-17:
        total += term
        term *= number * (1 - p) / ((n - number + 1) * p)
        number -= 1
    return total


def _corrected_wilson(p: float, n: float) -> Interval:
    """Wilson's 95% interval with continuity correction of a proportion of `n` samples, which may be no whole number."""
    z, q = _z(CONFIDENCE), 1 - p
    lowest, highest = z * z - 2 - 1 / n + 4 * p * (n * q + 1), z * z + 2 - 1 / n + 4 * p * (n * q - 1)
    low = (2 * n * p + z * z - 1 - z * math.sqrt(max(0.0, lowest))) / (2 * (n + z * z))
    high = (2 * n * p + z * z + 1 + z * math.sqrt(max(0.0, highest))) / (2 * (n + z * z))
    return Interval(max(0.0, low) if p > 0 else 0.0, min(1.0, high) if p < 1 else 1.0)


def _check_counts(count: float, n: int, confidence: float) -> None:
    if not 0 <= count <= n:
        raise ValueError(f"{count} of {n} is not a proportion")
    _z(confidence)


@cache
def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)

"""One-sided bounds of the difference between two versions that answered the same images. Standard library only."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from registry.evidence.stats import upper_bound

_STEPS = 60
_MOST_IMAGES = 1e6
"""Above it a number helps nobody, and looking for it takes seconds."""


@dataclass(frozen=True)
class PairedCounts:
    """How often two versions differ about `n` images: only the newer one has the event, only the older one has it."""

    newer_only: int
    older_only: int
    n: int

    @property
    def difference(self) -> float:
        """The newer version's share of events less the older one's."""
        return (self.newer_only - self.older_only) / self.n


def lowest_difference(counts: PairedCounts, confidence: float) -> float:
    """The one-sided lower bound of the difference between two shares on the same images, by Tango's score.

    Source: T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17 (1998), 891. It is the smallest difference that the score test at this level does
    not reject. Where no image has the event with the newer version only, it is a plain proportion, for which the score
    is too lenient with few events: there the exact bound counts, of Clopper and Pearson.

    Args:
        confidence: one-sided, between 0.5 and 1.

    Raises:
        ValueError: there are no images, more pairs that differ than images, or the confidence is out of its range.
    """
    if min(counts.newer_only, counts.older_only) < 0 or not counts.newer_only + counts.older_only <= counts.n > 0:
        raise ValueError(f"{counts.newer_only} and {counts.older_only} of {counts.n} pairs are no counts")
    limit = _quantile(confidence)
    low, high = -1.0, counts.difference
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(counts, middle) > limit else (low, middle)
    return high if counts.newer_only else min(high, -upper_bound(counts.older_only, counts.n, confidence))


def highest_difference(counts: PairedCounts, confidence: float) -> float:
    """The one-sided upper bound; see `lowest_difference`."""
    return -lowest_difference(PairedCounts(counts.older_only, counts.newer_only, counts.n), confidence)


def area_difference(
    newer: tuple[Sequence[float], Sequence[float]], older: tuple[Sequence[float], Sequence[float]], confidence: float
) -> tuple[float, float]:
    """The difference between two AUROCs on the same images and its one-sided lower bound, by DeLong's method.

    Source: E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, "Comparing the areas under two or more correlated
    receiver operating characteristic curves", Biometrics 44 (1988), 837. Where the scores give no variance at all,
    as when both separate everything, the bound is that of zero events in the smaller class.

    Args:
        newer, older: scores of the images inside and outside, in the same order for both; outside should score higher.
        confidence: one-sided, between 0.5 and 1.

    Raises:
        ValueError: a class has fewer than two images, or the two versions did not score the same ones.
    """
    sizes = [len(newer[0]), len(newer[1])]
    if sizes != [len(older[0]), len(older[1])] or min(sizes) < 2:
        raise ValueError(f"{sizes} and {[len(older[0]), len(older[1])]} scores are no pairs of at least two images")
    inside, outside = (
        [one - other for one, other in zip(*components, strict=True)]
        for components in zip(_components(*newer), _components(*older), strict=True)
    )
    difference = math.fsum(inside) / len(inside)
    deviation = math.sqrt(_variance(inside) / len(inside) + _variance(outside) / len(outside))
    z, n = _quantile(confidence), min(sizes)
    return difference, difference - (z * deviation if deviation > 0 else z * z / (n + z * z))


def n_that_decides_pairs(counts: PairedCounts, margin: float, confidence: float) -> int | None:
    """The number of images at which the lower bound would be above `-margin`, if the same share of pairs differed.

    None if no number of images decides, or more than a million.
    """
    if counts.difference <= -margin:
        return None
    factor = 1.0
    while lowest_difference(_scaled(counts, factor), confidence) < -margin:
        factor *= 1.05
        if counts.n * factor > _MOST_IMAGES:
            return None
    return _scaled(counts, factor).n


def _scaled(counts: PairedCounts, factor: float) -> PairedCounts:
    newer, older = round(counts.newer_only * factor), round(counts.older_only * factor)
    return PairedCounts(newer, older, max(math.ceil(counts.n * factor), newer + older))


def _score(counts: PairedCounts, difference: float) -> float:
    """Tango's statistic of a difference: about normal with variance 1 if it is the true one."""
    b, c, n, d = counts.newer_only, counts.older_only, counts.n, difference
    # The probability of `older_only` that is most likely if the difference is `d`: the root of a quadratic equation.
    linear = -b - c + (2 * n - b + c) * d
    root = math.sqrt(max(0.0, linear * linear + 8 * n * c * d * (1 - d)))
    likely = max(0.0, (root - linear) / (4 * n))
    variance = n * (2 * likely + d * (1 - d))
    excess = b - c - n * d
    return excess / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, excess) if excess else 0.0


def _components(inside: Sequence[float], outside: Sequence[float]) -> tuple[list[float], list[float]]:
    """For each image the share of the other class that it is on the right side of; ties count half."""
    ordered_in, ordered_out = sorted(inside), sorted(outside)
    of_inside = [1 - _below(score, ordered_out) for score in inside]
    return of_inside, [_below(score, ordered_in) for score in outside]


def _below(score: float, ordered: Sequence[float]) -> float:
    return (bisect_left(ordered, score) + bisect_right(ordered, score)) / (2 * len(ordered))


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _quantile(confidence: float) -> float:
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0.5 and 1")
    return NormalDist().inv_cdf(confidence)

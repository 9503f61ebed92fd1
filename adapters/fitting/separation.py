"""How well do scores tell images of something else from images of the target? Measures and AUROC's interval.

A higher score is further out. `inside` are the scores of in-distribution images, `outside` those of out-of-distribution
ones. In-distribution is the positive class of FPR@95TPR, as in OpenOOD; AUPR is given with either as the positive one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np

from registry.errors import BadInput

Scores: TypeAlias = Sequence[float] | np.ndarray

MIN_OVERLAP = 20
"""Images of either kind among the other kind's scores from which DeLong's variance is trusted by itself."""


@dataclass(frozen=True)
class Tally:
    """How often each score occurs on either side. The measures are of every row along the last axis, so that a
    thousand resamples take as few steps as one sample.

    Attributes:
        inside, outside: [..., values], counts of the ascending scores; each row has at least one of either.
    """

    inside: np.ndarray
    outside: np.ndarray

    @classmethod
    def of(cls, inside: Scores, outside: Scores) -> Tally:
        """Count the scores of [n] in-distribution and [m] out-of-distribution images.

        Raises:
            BadInput: either is empty or has NaN.
        """
        own, others = _checked(inside), _checked(outside)
        values, places = np.unique(np.concatenate([own, others]), return_inverse=True)
        count = len(values)
        return cls(np.bincount(places[: len(own)], minlength=count), np.bincount(places[len(own) :], minlength=count))

    @property
    def auroc(self) -> np.ndarray:
        """The probability that an out-of-distribution image scores higher than an in-distribution one; ties count
        half."""
        return np.asarray((self.outside * self.inside_below).sum(axis=-1) / self.outside.sum(axis=-1))

    @property
    def fpr_at_95_tpr(self) -> np.ndarray:
        """The share of out-of-distribution images that pass at the least threshold that lets 95% of the others pass."""
        needed = -(-95 * self.inside.sum(axis=-1, keepdims=True) // 100)
        threshold = (self.inside.cumsum(axis=-1) >= needed).argmax(axis=-1)[..., None]
        passed = np.take_along_axis(self.outside.cumsum(axis=-1), threshold, axis=-1)[..., 0]
        return np.asarray(passed / self.outside.sum(axis=-1))

    @property
    def aupr_in(self) -> np.ndarray:
        """Average precision of finding in-distribution images by their low scores."""
        return _average_precision(self.inside, self.outside)

    @property
    def aupr_out(self) -> np.ndarray:
        """Average precision of finding out-of-distribution images by their high scores."""
        return _average_precision(self.outside[..., ::-1], self.inside[..., ::-1])

    @property
    def inside_below(self) -> np.ndarray:
        """The share of in-distribution images below each score, ties counting half."""
        below = self.inside.cumsum(axis=-1) - 0.5 * self.inside
        return np.asarray(below / self.inside.sum(axis=-1, keepdims=True))

    @property
    def outside_above(self) -> np.ndarray:
        """The share of out-of-distribution images above each score, ties counting half."""
        total = self.outside.sum(axis=-1, keepdims=True)
        return np.asarray((total - self.outside.cumsum(axis=-1) + 0.5 * self.outside) / total)


def auroc(inside: Scores, outside: Scores) -> float:
    """The area under the ROC curve, the same whichever class is the positive one.

    Raises:
        BadInput: either is empty or has NaN.
    """
    return float(Tally.of(inside, outside).auroc)


def fpr_at_95_tpr(inside: Scores, outside: Scores) -> float:
    """The false positive rate where 95% of in-distribution images pass; in-distribution is the positive class.

    Raises:
        BadInput: either is empty or has NaN.
    """
    return float(Tally.of(inside, outside).fpr_at_95_tpr)


def aupr_in(inside: Scores, outside: Scores) -> float:
    """The area under the precision-recall curve with in-distribution as the positive class, as average precision.

    Average precision does not interpolate: between points of this curve straight lines would promise too much (Davis
    and Goadrich, "The relationship between precision-recall and ROC curves", 2006). It depends on how many images of
    either kind there are: scores that know nothing have n / (n + m).

    Raises:
        BadInput: either is empty or has NaN.
    """
    return float(Tally.of(inside, outside).aupr_in)


def aupr_out(inside: Scores, outside: Scores) -> float:
    """As `aupr_in`, with out-of-distribution as the positive class: scores that know nothing have m / (n + m).

    Raises:
        BadInput: either is empty or has NaN.
    """
    return float(Tally.of(inside, outside).aupr_out)


def delong_variance(inside: Scores, outside: Scores) -> float:
    """The variance of AUROC by DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated
    receiver operating characteristic curves: a nonparametric approach", Biometrics 44 (1988), 837.

    In O(N log N), from ranks instead of all pairs: Sun and Xu, "Fast implementation of DeLong's algorithm for comparing
    the areas under correlated receiver operating characteristic curves", IEEE Signal Processing Letters 21 (2014),
    1389. The difference of their midranks is the number of images below, ties counting half, which a tally has at hand.

    Returns:
        The variance; NaN where a side has one image only.

    Raises:
        BadInput: either is empty or has NaN.
    """
    return _delong_variance(Tally.of(inside, outside))


def auroc_interval(inside: Scores, outside: Scores, confidence: float = 0.95) -> tuple[float, float]:
    """The confidence interval of AUROC, with DeLong's variance on the logit scale.

    On the plain scale the interval leaves [0, 1] and covers too little near 1: 69% instead of 95% at a true AUROC of
    0.99 with 40 and 50 images of unequal spread. DeLong's variance itself fails where few images of the two kinds lie
    among each other, and is 0 where none do, however few images there were. With fewer than `MIN_OVERLAP` of either
    kind the interval therefore also spans that of Newcombe, "Confidence intervals for an effect size measure based on
    the Mann-Whitney statistic, part 2", Statistics in Medicine 25 (2006), 559, method 5, which knows the numbers of
    images. In simulated normal scores (AUROC .95 to .9995, 40 to 1,000 images of a kind, equal and unequal spreads) it
    covered at least 90%.

    Returns:
        The lower and the upper end, which hold AUROC between them and lie in [0, 1].

    Raises:
        BadInput: either is empty or has NaN.
    """
    tally = Tally.of(inside, outside)
    area, variance = float(tally.auroc), _delong_variance(tally)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    by_numbers = _newcombe(area, int(tally.inside.sum()), int(tally.outside.sum()), z)
    if not variance > 0:
        return by_numbers
    low, high = _on_logit_scale(area, variance, z)
    if _overlap(tally) >= MIN_OVERLAP:
        return low, high
    return min(low, by_numbers[0]), max(high, by_numbers[1])


def _delong_variance(tally: Tally) -> float:
    return _variance_of_mean(tally.inside_below, tally.outside) + _variance_of_mean(tally.outside_above, tally.inside)


def _variance_of_mean(values: np.ndarray, counts: np.ndarray) -> float:
    """The estimated variance of the mean of values that occur so many times."""
    n = int(counts.sum())
    if n < 2:
        return math.nan
    mean = (counts * values).sum() / n
    return float((counts * (values - mean) ** 2).sum() / (n - 1) / n)


def _overlap(tally: Tally) -> int:
    """How many images lie among those of the other kind: the smaller number of the two kinds."""
    below, above = tally.inside_below, tally.outside_above
    outside = tally.outside[(below > 0) & (below < 1)].sum()
    inside = tally.inside[(above > 0) & (above < 1)].sum()
    return int(min(inside, outside))


def _on_logit_scale(area: float, variance: float, z: float) -> tuple[float, float]:
    middle, half = math.log(area / (1 - area)), z * math.sqrt(variance) / (area * (1 - area))
    # tanh instead of exp: it does not overflow where the interval is as wide as can be.
    low, high = ((1 + math.tanh((middle + side * half) / 2)) / 2 for side in (-1, 1))
    return min(low, area), max(high, area)


def _newcombe(area: float, n: int, m: int, z: float) -> tuple[float, float]:
    """The areas t with |area - t| <= z sqrt(V(t)), where V is Hanley and McNeil's variance with (n + m) / 2 images on
    each side in its numerator."""
    more = (n + m) / 2 - 1

    def excess(t: float) -> float:
        variance = t * (1 - t) * (1 + more * (1 - t) / (2 - t) + more * t / (1 + t)) / (n * m)
        return abs(area - t) - z * math.sqrt(variance)

    return _end(excess, 0.0, area), _end(excess, 1.0, area)


def _end(excess: Callable[[float], float], outer: float, area: float) -> float:
    """Where an interval around `area` ends towards `outer`, by bisection."""
    inner = area
    for _ in range(60):
        middle = (outer + inner) / 2
        if excess(middle) > 0:
            outer = middle
        else:
            inner = middle
    return inner


def _average_precision(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Σ (recall gained) x precision over the scores in their order, the most likely positive first."""
    found = positive.cumsum(axis=-1)
    precision = found / np.maximum(found + negative.cumsum(axis=-1), 1)
    return np.asarray((positive * precision).sum(axis=-1) / positive.sum(axis=-1))


def _checked(values: Scores) -> np.ndarray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or bool(np.isnan(scores).any()):
        raise BadInput("scores must be a list of at least one number, none of them NaN")
    return scores

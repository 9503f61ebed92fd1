"""Numbers along an axis, with the same steps for every version: MLflow draws those of several runs in one chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

COVERAGES = range(5, 101, 5)
"""Percent of the images."""
PERCENTILES = (*range(1, 100, 2), 99)
RATES = range(0, 101, 2)
"""Percent of the images of something else that pass."""

Curve = Mapping[int, float]


def right_by_coverage(sureness: Sequence[float], right: Sequence[bool]) -> Curve:
    """The share of right answers among so many percent of the images, the surest first: step = percent."""
    order = np.argsort(-np.asarray(sureness, np.float64), kind="stable")
    hits = np.asarray(right, np.float64)[order].cumsum()
    n = len(hits)
    counts = {percent: max(1, round(n * percent / 100)) for percent in COVERAGES} if n else {}
    return {percent: float(hits[count - 1] / count) for percent, count in counts.items()}


def percentiles(values: np.ndarray) -> Curve:
    """The percentiles of some values: step = percent of the values that are not above it."""
    return {percent: float(np.percentile(values, percent)) for percent in PERCENTILES}


def roc(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every threshold, rising from (0, 0) to (1, 1). An image passes as one of the
    target's if its score is at most the threshold."""
    thresholds = np.unique(np.concatenate([inside, outside]))
    false, true = (
        np.searchsorted(np.sort(scores), thresholds, side="right") / len(scores) for scores in (outside, inside)
    )
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def true_by_false_rate(inside: np.ndarray, outside: np.ndarray) -> Curve:
    """The largest true positive rate with at most so many percent false positives: step = percent."""
    false, true = roc(inside, outside)
    places = {percent: int(np.searchsorted(false, percent / 100 + 1e-12, side="right")) - 1 for percent in RATES}
    return {percent: float(true[place]) for percent, place in places.items()}


def totals(sizes: Sequence[float]) -> Curve:
    """The sum of the first k sizes, the largest first: step = k."""
    return {k + 1: float(total) for k, total in enumerate(np.cumsum(sorted(sizes, reverse=True))[:500])}

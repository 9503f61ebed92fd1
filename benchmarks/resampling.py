"""Bootstrap intervals, vectorised. A sample's values are resampled as counts, so that a thousand resamples are quick.

Percentile intervals, B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from registry.evidence.stats import CONFIDENCE, Interval

RESAMPLES = 1000
_CHUNK = 4_000_000  # numbers held at a time


@dataclass(frozen=True)
class Separation:
    """How well scores tell out-of-distribution images from in-distribution ones, one entry per resample."""

    auroc: np.ndarray
    fpr95: np.ndarray


def interval(values: np.ndarray) -> Interval:
    """The percentile interval of resampled values; NaN entries do not count."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def quantile_interval(values: np.ndarray, q: float, seed: int) -> Interval:
    """The interval of a sample's q-quantile."""
    draws = np.random.default_rng(seed).choice(values, size=(RESAMPLES, len(values)))
    return interval(np.quantile(draws, q, axis=1))


def resampled_separation(inside: np.ndarray, outside: np.ndarray, seed: int) -> Separation:
    """AUROC and FPR@95TPR of resamples; each side is resampled by itself, and the threshold found anew each time.

    Args:
        inside: scores of in-distribution images, [n].
        outside: scores of out-of-distribution images, [m]. A higher score is further out.
    """
    random = np.random.default_rng(seed)
    values, places = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    chances_in = np.bincount(places[: len(inside)], minlength=len(values)) / len(inside)
    chances_out = np.bincount(places[len(inside) :], minlength=len(values)) / len(outside)
    chunk = max(1, _CHUNK // len(values))
    aurocs, fprs = [], []
    for start in range(0, RESAMPLES, chunk):
        count = min(chunk, RESAMPLES - start)
        auroc, fpr = separation_of_counts(
            random.multinomial(len(inside), chances_in, size=count),
            random.multinomial(len(outside), chances_out, size=count),
        )
        aurocs.append(auroc)
        fprs.append(fpr)
    return Separation(np.concatenate(aurocs), np.concatenate(fprs))


def separation_of_counts(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and FPR@95TPR, in-distribution being the positive class, as in OpenOOD (`adapters.ood` has the plain ones).

    Args:
        inside: [resamples, values], how often each of the ascending values occurs among in-distribution scores.
        outside: the same of out-of-distribution scores.
    """
    n, m = inside[0].sum(), outside[0].sum()
    passed = outside.cumsum(axis=1)
    auroc = (inside * (m - passed + 0.5 * outside)).sum(axis=1) / (n * m)
    threshold = (inside.cumsum(axis=1) >= -(-95 * n // 100)).argmax(axis=1)
    return auroc, np.take_along_axis(passed, threshold[:, None], axis=1)[:, 0] / m


def resampled_counts(counts: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int) -> Interval:
    """The interval of a statistic of counts, e.g. the cells of a confusion matrix.

    Args:
        counts: [cells].
        statistic: maps [resamples, cells] to [resamples].
    """
    total = int(counts.sum())
    return interval(statistic(np.random.default_rng(seed).multinomial(total, counts / total, size=RESAMPLES)))

"""Bootstrap intervals. Samples are resampled as counts, vectorised, so that a thousand resamples are fast.

Percentile intervals, B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adapters.fitting.ood_metrics import ScoreCounts
from registry.evidence.stats import CONFIDENCE, Interval

RESAMPLES = 1000
_CHUNK = 4_000_000  # numbers held at a time


@dataclass(frozen=True)
class Separation:
    """Metrics of OOD detection, one entry per resample."""

    fpr95: np.ndarray
    aupr_in: np.ndarray
    aupr_out: np.ndarray


def interval(values: np.ndarray) -> Interval:
    """The percentile interval of resampled values; NaN entries are ignored."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def quantile_interval(values: np.ndarray, q: float, seed: int) -> Interval:
    """The interval of a sample's q-quantile."""
    draws = np.random.default_rng(seed).choice(values, size=(RESAMPLES, len(values)))
    return interval(np.quantile(draws, q, axis=1))


def resampled_separation(counts: ScoreCounts, seed: int) -> Separation:
    """Metrics of resamples; each kind is resampled separately, and the threshold of FPR95 is found again each time.

    Args:
        counts: of one sample.
    """
    measures = [(one.fpr_at_95_tpr, one.aupr_in, one.aupr_out) for one in _resamples(counts, seed)]
    return Separation(*(np.concatenate(values) for values in zip(*measures, strict=True)))


def chunks_of(numbers: int) -> Iterator[int]:
    """How many resamples to draw at a time, together `RESAMPLES`, so that they fit in memory.

    Args:
        numbers: in one resample.
    """
    chunk = max(1, _CHUNK // numbers)
    for start in range(0, RESAMPLES, chunk):
        yield min(chunk, RESAMPLES - start)


def _resamples(counts: ScoreCounts, seed: int) -> Iterator[ScoreCounts]:
    """`RESAMPLES` rows in chunks that fit in memory."""
    random = np.random.default_rng(seed)
    own, others = int(counts.inside.sum()), int(counts.outside.sum())
    for size in chunks_of(len(counts.inside)):
        yield ScoreCounts(
            random.multinomial(own, counts.inside / own, size=size),
            random.multinomial(others, counts.outside / others, size=size),
        )

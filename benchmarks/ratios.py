"""Ratios of the times of two versions that answered the same images in turns, with their intervals.

The p50 ratio is the median over the rounds of the ratio within a round, where both have the same image and about the
same load. The p95 ratio is that of the 95th percentiles: a tail has no counterpart within a round.

Intervals are of a circular block bootstrap of the rounds: a burst of load lasts for several rounds, so these are not
independent. D. N. Politis and J. P. Romano, "A circular block-resampling procedure for stationary data", in "Exploring
the Limits of Bootstrap", 1992. Percentiles of resamples are too narrow where there are few blocks: with 50 rounds the
upper end was below the truth in 5.2% of runs instead of 2.5%. So they are widened as an interval of Student's t is
against one of the normal distribution: the expanded percentile interval of T. Hesterberg, "What Teachers Should Know
About the Bootstrap", The American Statistician 69 (2015), 371, with the blocks as the samples.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from benchmarks.bootstrap import RESAMPLES
from registry.evidence.results import Metric
from registry.evidence.stats import CONFIDENCE

_CHUNK = 4_000_000  # numbers held at a time


def ratio_metrics(times: np.ndarray, others: np.ndarray, seed: int) -> list[Metric]:
    """`latency_ratio_p50` and `latency_ratio_p95`; below 1 is faster.

    Args:
        times, others: milliseconds of the version and of the one that it is compared with, [rounds] each, above 0.
    """
    n, low_high = len(times), _intervals(times, others, seed)
    values = {"p50": float(_median_ratio(times, others)), "p95": float(_tail_ratio(times, others))}
    return [
        Metric.of(
            f"latency_ratio_{name}", value, n=n, unit="ratio",
            low=min(low_high[name][0], value), high=max(low_high[name][1], value),
        )
        for name, value in values.items()
    ]  # fmt: skip


def _intervals(times: np.ndarray, others: np.ndarray, seed: int) -> dict[str, tuple[float, float]]:
    n, random = len(times), np.random.default_rng(seed)
    found: dict[str, list[np.ndarray]] = {"p50": [], "p95": []}
    chunk = max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, chunk):
        rounds = _blocks(n, min(chunk, RESAMPLES - start), random)
        found["p50"].append(_median_ratio(times[rounds], others[rounds]))
        found["p95"].append(_tail_ratio(times[rounds], others[rounds]))
    tail = _expanded_tail(n / _block_length(n))
    ends = {name: np.quantile(np.concatenate(values), [tail, 1 - tail]) for name, values in found.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _block_length(n: int) -> int:
    """Twice the cube root of the rounds, so that what lasts over some rounds in one version only is in a block too."""
    return max(1, min(round(2 * math.cbrt(n)), n // 2))


def _expanded_tail(blocks: float) -> float:
    """The share of resamples beyond an end, less than (1 - CONFIDENCE) / 2: the tail of the normal distribution beyond
    the quantile of Student's t, for that many blocks.

    The quantile is by M. Abramowitz and I. A. Stegun, "Handbook of Mathematical Functions", 26.7.5.
    """
    z, freedom = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), max(1.0, blocks - 1)
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom * freedom)
    return 1 - NormalDist().cdf(t * math.sqrt(1 + 1 / freedom))


def _blocks(n: int, size: int, random: np.random.Generator) -> np.ndarray:
    """The rounds of each resample, [size, n]: blocks of consecutive rounds, the first follows the last."""
    length = _block_length(n)
    starts = random.integers(0, n, (size, math.ceil(n / length)))
    rounds = (starts[:, :, None] + np.arange(length)) % n
    return rounds.reshape(size, -1)[:, :n]


def _median_ratio(times: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.asarray(np.median(times / others, axis=-1))


def _tail_ratio(times: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.asarray(np.quantile(times, 0.95, axis=-1) / np.quantile(others, 0.95, axis=-1))

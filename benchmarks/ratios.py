"""Ratios of the times of two versions that answered the same images in turns, with their intervals.

The p50 ratio is the median over the rounds of the ratio within a round, where both have the same image and about the
same load. The p95 ratio is that of the 95th percentiles: a tail has no counterpart within a round.

Intervals are of a circular block bootstrap of the rounds: a burst of load lasts for several rounds, so these are not
independent. D. N. Politis and J. P. Romano, "A circular block-resampling procedure for stationary data", in "Exploring
the Limits of Bootstrap", 1992. Percentiles of resamples are too narrow where there are few blocks: with 50 rounds the
upper end was below the truth in 5.2% of runs instead of 2.5%. So they are widened as an interval of Student's t is
against one of the normal distribution: the expanded percentile interval of T. Hesterberg, "What Teachers Should Know
About the Bootstrap", The American Statistician 69 (2015), 371, with the blocks as the samples. Ends of other levels
follow from these by Student's t, see `registry.evidence.looks`: resamples are too few to tell them.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from benchmarks.bootstrap import RESAMPLES
from registry.evidence.results import Metric
from registry.evidence.stats import CONFIDENCE, student_quantile

_CHUNK = 4_000_000  # numbers held at a time
_BEYOND = 4
"""Ends beyond the kept ones are of a t with so many times fewer degrees of freedom: the spread of a median is itself
known roughly only. In 5,000 simulated runs of 300 rounds a version at the bound has chances to pass by the first, the
second … the tenth measurement that add up to 5.7% with 1, and to 4.4% with 4, where 5% is promised."""


def ratio_metrics(times: np.ndarray, others: np.ndarray, seed: int) -> list[Metric]:
    """`latency_ratio_p50` and `latency_ratio_p95`; below 1 is faster.

    Args:
        times, others: milliseconds of the version and of the one that it is compared with, [rounds] each, above 0.
    """
    n, low_high = len(times), _intervals(times, others, seed)
    values = {"p50": float(_median_ratio(times, others)), "p95": float(_tail_ratio(times, others))}
    metrics = [
        Metric.of(
            f"latency_ratio_{name}", value, n=n, unit="ratio",
            low=min(low_high[name][0], value), high=max(low_high[name][1], value),
        )
        for name, value in values.items()
    ]  # fmt: skip
    return [metric.model_copy(update={"freedom": max(1.0, _freedom(n) / _BEYOND)}) for metric in metrics]


def _intervals(times: np.ndarray, others: np.ndarray, seed: int) -> dict[str, tuple[float, float]]:
    n, random = len(times), np.random.default_rng(seed)
    found: dict[str, list[np.ndarray]] = {"p50": [], "p95": []}
    chunk = max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, chunk):
        rounds = _blocks(n, min(chunk, RESAMPLES - start), random)
        found["p50"].append(_median_ratio(times[rounds], others[rounds]))
        found["p95"].append(_tail_ratio(times[rounds], others[rounds]))
    tail = _expanded_tail(_freedom(n))
    ends = {name: np.quantile(np.concatenate(values), [tail, 1 - tail]) for name, values in found.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _block_length(n: int) -> int:
    """Twice the cube root of the rounds, so that what lasts over some rounds in one version only is in a block too."""
    return max(1, min(round(2 * math.cbrt(n)), n // 2))


def _freedom(n: int) -> float:
    """Degrees of freedom: of the blocks in so many rounds."""
    return max(1.0, n / _block_length(n) - 1)


def _expanded_tail(freedom: float) -> float:
    """The share of resamples beyond an end, less than (1 - CONFIDENCE) / 2: the tail of the normal distribution beyond
    the quantile of Student's t."""
    t = student_quantile((1 - CONFIDENCE) / 2, freedom)
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

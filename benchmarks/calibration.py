"""How far the probabilities of labels are from how often the labels are right.

Expected calibration error (ECE) of the answered label: M. P. Naeini, G. F. Cooper and M. Hauskrecht, "Obtaining well
calibrated probabilities using Bayesian binning", AAAI 2015; with 15 bins of equal width as in C. Guo, G. Pleiss, Y. Sun
and K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017.

Its limits: noise in a bin counts as an error, whatever its sign. So the value is above the truth, by about 0.04, 0.02
and 0.01 with 100, 300 and 1,000 images of a version that is calibrated perfectly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.bootstrap import chunks_of, interval
from registry.evidence.outcomes import ImageOutcome
from registry.evidence.results import Metric
from registry.evidence.stats import Interval

BINS = 15
_EDGES = np.arange(1, BINS) / BINS


@dataclass(frozen=True)
class Answers:
    """The probability of each answered label, 0 to 1, and whether the label is right, 0 or 1; [n] each."""

    probability: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, outcomes: Iterable[ImageOutcome]) -> Answers:
        """Those images that were answered with a label and its probability."""
        told = [one for one in outcomes if one.probability is not None and one.answered_label is not None]
        right = [float(one.answered_label == one.label) for one in told]
        return cls(np.array([one.probability for one in told], np.float64), np.array(right, np.float64))

    @property
    def bins(self) -> np.ndarray:
        """The bin of each, 0 to 14: bin m has the probabilities above m/15 up to (m+1)/15; the first also has 0."""
        return np.asarray(np.searchsorted(_EDGES, self.probability, side="left"))


def calibration_error(outcomes: Sequence[ImageOutcome], target: str | None, seed: int) -> Metric:
    """`ece`: the mean over the answered images of |share right - mean probability| of an image's bin.

    Without an answered image it has no value. The interval is a percentile bootstrap over images; its lower end is that
    of the basic bootstrap, if that is lower, because resampling adds noise that counts as error. Where the truth was 0,
    it still was above that in 20% to 25% of simulated data. The upper end held in 98% to 100%, so a rule with `max` and
    `judge: bound` is on the safe side.
    """
    answers = Answers.of(outcomes)
    n = len(answers.probability)
    if n == 0:
        return Metric.of("ece", None, n=0, target=target)
    gaps = np.zeros((n, BINS))
    gaps[np.arange(n), answers.bins] = answers.right - answers.probability
    value = float(np.abs(gaps.sum(axis=0)).sum() / n)
    around = _interval(gaps, value, seed)
    return Metric.of("ece", value, n=n, low=around.low, high=around.high, target=target)


def _interval(gaps: np.ndarray, value: float, seed: int) -> Interval:
    n, random = len(gaps), np.random.default_rng(seed)
    drawn = []
    for size in chunks_of(n):
        weights = random.multinomial(n, np.full(n, 1 / n), size=size)
        drawn.append(np.abs(weights @ gaps).sum(axis=1) / n)
    around = interval(np.concatenate(drawn))
    return Interval(max(0.0, min(around.low, value, 2 * value - around.high)), min(1.0, max(around.high, value)))

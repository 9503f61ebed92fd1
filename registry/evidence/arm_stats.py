"""The difference between the shares of two versions in a trial, looked at once. Standard library only.

For looks on the way there are e-values: `registry.trials.evalues`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from registry.evidence.paired_stats import PairedCounts, highest_difference, lowest_difference
from registry.evidence.stats import binomial_tail, wilson
from registry.trials.counts import UnitPairs
from registry.trials.evalues import Rate

_DIGITS = 12
"""The last bits of logarithms differ between machines."""


@dataclass(frozen=True)
class ShareDifference:
    """The canary's share of an event less stable's, with its two-sided interval.

    Attributes:
        p_value: two-sided, of no difference; so it is below p in the good direction by chance with probability p / 2.
    """

    value: float
    low: float
    high: float
    p_value: float


def apart(stages: Sequence[tuple[Rate, Rate]], significance: float) -> ShareDifference | None:
    """The difference between two shares of different units, the canary's first in each stage; None without units.

    What the time of day, or a season, does to both arms is no difference between them. So the arms are compared within
    each stage, in which their ratio is the same all the time, and the differences averaged with the weights of Mantel
    and Haenszel. The interval is Newcombe's of each stage (R. G. Newcombe, "Interval estimation for the difference
    between independent proportions", Statistics in Medicine 17 (1998), 873, method 10), combined as Zou and Donner do
    (see `registry.evidence.stats.mean_interval`). The test is Cochran's (W. G. Cochran, Biometrics 10 (1954), 417); for
    a single stage it is the usual test of two proportions.
    """
    known = [(mine.n * other.n / (mine.n + other.n), mine, other) for mine, other in stages if mine.n and other.n]
    if not known:
        return None
    total = math.fsum(weight for weight, _, _ in known)
    value = math.fsum(weight * (mine.x / mine.n - other.x / other.n) for weight, mine, other in known) / total
    gaps = [[weight / total * gap for gap in _gaps(mine, other, 1 - significance)] for weight, mine, other in known]
    down, up = (math.sqrt(math.fsum(gap * gap for gap in side)) for side in zip(*gaps, strict=True))
    variance = math.fsum(weight * _pooled_variance(mine, other) for weight, mine, other in known)
    z = value * total / math.sqrt(variance) if variance > 0 else 0.0
    return _difference(value, value - down, value + up, math.erfc(abs(z) / math.sqrt(2)))


def _gaps(mine: Rate, other: Rate, confidence: float) -> tuple[float, float]:
    """The distances from the difference to the ends of Newcombe's interval."""
    p, q = mine.x / mine.n, other.x / other.n
    ours, theirs = wilson(mine.x, mine.n, confidence), wilson(other.x, other.n, confidence)
    return math.hypot(p - ours.low, theirs.high - q), math.hypot(ours.high - p, q - theirs.low)


def _pooled_variance(mine: Rate, other: Rate) -> float:
    share = (mine.x + other.x) / (mine.n + other.n)
    return share * (1 - share)


def paired(pairs: UnitPairs, significance: float) -> ShareDifference | None:
    """The same of units of which both versions saw the same; None without units.

    The interval is Tango's, see `registry.evidence.paired_stats`; the test is the exact one of McNemar.
    """
    if not pairs.n:
        return None
    counts, confidence = PairedCounts(pairs.canary_only, pairs.stable_only, pairs.n), 1 - significance / 2
    low, high = lowest_difference(counts, confidence), highest_difference(counts, confidence)
    only_one = Rate(pairs.canary_only, pairs.canary_only + pairs.stable_only)
    return _difference(counts.difference, low, high, sign_test(only_one))


def sign_test(signs: Rate) -> float:
    """The exact two-sided p-value of as many signs of either kind; 1 without signs."""
    if not signs.n:
        return 1.0
    return round(min(1.0, 2 * binomial_tail(min(signs.x, signs.n - signs.x), signs.n, 0.5)), _DIGITS)


def _difference(value: float, low: float, high: float, p_value: float) -> ShareDifference:
    return ShareDifference(*(round(each, _DIGITS) for each in (value, max(-1.0, low), min(1.0, high), p_value)))

"""Quantiles of few values, such that those of different numbers of values can be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value with this share below it: the one at place share · (n + 1), or between its neighbours.

    So the share of all values below it is `share` on average, for any n of at least 1 / (1 - share) - 1 values: the
    nearest value would be too small for few values, and a canary with few requests would seem faster. This is number 6
    of R. J. Hyndman and Y. Fan, "Sample quantiles in statistical packages", The American Statistician 50 (1996), 361.

    Args:
        ordered: one value at least, the smallest first.
        share: 0 to 1.
    """
    place = min(max(share * (len(ordered) + 1), 1.0), float(len(ordered)))
    below = math.floor(place)
    low, high = ordered[below - 1], ordered[min(below, len(ordered) - 1)]
    return low + (place - below) * (high - low)

"""Other ways to judge a canary by its errors, as they are used in the field. Each is told the counts at every look."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ALPHA = 0.05
"""Of the rivals: what they are set to where nobody thinks about it."""
FLAGGER_MAX_ERRORS, FLAGGER_FAILED_CHECKS = 0.01, 5
"""Of Flagger's examples: a success rate of at least 99%, and a rollback after 5 failed checks."""
GROWTHBOOK_TUNED_FOR = 5_000
"""GrowthBook's default: the number of units for which its sequence is narrowest."""


@dataclass(frozen=True)
class ArmTotals:
    """Units and those with an event, of each arm, until a look."""

    canary_x: int
    canary_n: int
    stable_x: int
    stable_n: int


Judge = Callable[[Sequence[ArmTotals]], bool]
"""Whether the canary is rolled back, by the totals of all looks until now."""


def p_below_5_percent(looks: Sequence[ArmTotals]) -> bool:
    """A one-sided test of two proportions at .05, as if this were the only look."""
    one = looks[-1]
    difference, variance = _difference(one)
    return variance > 0 and difference / math.sqrt(variance) > 1.6449


def flagger(looks: Sequence[ArmTotals]) -> bool:
    """Flagger's: checks failed in which the canary's error rate since the look before was above a threshold; they are
    counted over the whole trial. See https://docs.flagger.app/usage/how-it-works.
    """
    before = ArmTotals(0, 0, 0, 0)
    failed = 0
    for look in looks:
        n, x = look.canary_n - before.canary_n, look.canary_x - before.canary_x
        failed += n > 0 and x / n > FLAGGER_MAX_ERRORS
        before = look
    return failed >= FLAGGER_FAILED_CHECKS


def growthbook(looks: Sequence[ArmTotals]) -> bool:
    """GrowthBook's sequential test: an asymptotic confidence sequence of the difference, at .05, above 0.

    I. Waudby-Smith and others, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of
    Statistics 52 (2024), with the half width and the tuning of https://docs.growthbook.io/statistics/sequential.
    """
    one = looks[-1]
    difference, variance = _difference(one)
    n = one.canary_n + one.stable_n
    root = -2 * math.log(ALPHA)
    rho2 = (root + math.log(root + 1)) / GROWTHBOOK_TUNED_FOR
    width = 2 * (n * rho2 + 1) / (n * n * rho2) * math.log(math.sqrt(n * rho2 + 1) / ALPHA)
    return variance > 0 and difference > math.sqrt(n * variance * width)


RIVALS: Mapping[str, Judge] = {
    "p < .05 at every look": p_below_5_percent,
    "Flagger": flagger,
    "GrowthBook": growthbook,
}


def _difference(one: ArmTotals) -> tuple[float, float]:
    """The difference of the rates, and its variance, not pooled."""
    if not one.canary_n or not one.stable_n:
        return 0.0, 0.0
    canary, stable = one.canary_x / one.canary_n, one.stable_x / one.stable_n
    return canary - stable, canary * (1 - canary) / one.canary_n + stable * (1 - stable) / one.stable_n

"""Measurements that may be taken again, each a new draw of chance: at which confidence each is judged.

The allowed error is spent: the k-th measurement is judged with confidence 1 - (1 - confidence) / 2^k. A version that is
as bad as the bound then passes by any of them, however many there are and however it was decided to go on, with a
probability of at most (1 - confidence) (1/2 + 1/4 + …) = 1 - confidence. This is Bonferroni's inequality with unequal
shares: O. J. Dunn, "Multiple Comparisons Among Means", JASA 56 (1961), 52.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from registry.evidence.comparison import Compared
from registry.evidence.metrics import MAX_ROUNDS
from registry.evidence.number_text import END_DIGITS, exact, number, significant
from registry.evidence.results import Metric
from registry.evidence.rule import Rule
from registry.evidence.stats import CONFIDENCE, student_quantile

MAX_LOOKS = 10
"""So many measurements may let a version pass: no interval is known well enough at the levels beyond."""
_KEPT_TAIL = (1 - CONFIDENCE) / 2
_STEP = 100


def look_confidence(rule: Rule, look: int) -> float:
    """The one-sided confidence with which the `look`-th measurement (from 1) is judged."""
    return 1 - _tail(rule, look)


def compare_look(rule: Rule, metric: Metric, look: int, digits: int = END_DIGITS) -> Compared:
    """How a measurement with enough rounds compares with a rule's bound by its interval; `digits` are of the end.

    It fails if the whole interval that evidence keeps is beyond the bound, and passes if the end at its own level is
    not.

    Args:
        metric: its value is a number.
        look: which measurement it is, from 1.
    """
    value, bound = metric.value or 0.0, getattr(rule, rule.kind)
    side, shown = 1 if rule.wants_more else -1, number(metric.value or 0.0, bound)
    asked = f"{'at least' if rule.wants_more else 'at most'} {exact(bound)}"
    better = metric.high if rule.wants_more else metric.low
    if side * (value if better is None else better) < side * bound:
        sure = f" with {_percent(1 - _KEPT_TAIL)} confidence ({number(better, bound)})" if better is not None else ""
        return Compared("fail", f"{shown}, not {asked}{sure}" + (f": {rule.why}" if rule.why else ""))
    sure = _percent(look_confidence(rule, look))
    if look > MAX_LOOKS:
        return Compared("inconclusive", f"{shown}, and only the first {MAX_LOOKS} measurements can let it pass")
    end = ratio_end(rule, metric, look)
    if end is None:
        kept = "no interval" if metric.low is None else "an interval that does not tell"
        return Compared("inconclusive", f"{shown}, but is it {asked} with {sure} confidence? It was kept with {kept}")
    end = significant(end, digits)
    if side * end >= side * bound:
        return Compared("pass", f"{shown}, and with {sure} confidence {asked} ({number(end, bound)})", end)
    reason = f"{shown} in {metric.n} rounds: with {sure} confidence only {number(end, bound)}, not {asked}"
    return Compared("inconclusive", reason, end)


def ratio_end(rule: Rule, metric: Metric, look: int) -> float | None:
    """The end of a ratio's one-sided interval on the rule's bad side.

    Evidence keeps the end that holds with 97.5%. Another level's is farther from the value, on a scale of logarithms,
    by the ratio of the quantiles of Student's t, if the evidence says of how many degrees of freedom.

    Returns:
        None where the evidence does not tell it, or it is beyond the largest number: with one degree of freedom the
        quantile of a tenth measurement is 120 times that of the first.
    """
    tail, kept = _tail(rule, look), metric.low if rule.wants_more else metric.high
    if kept is None or not metric.value or kept <= 0 or metric.value <= 0:
        return None
    if metric.freedom is None or math.isclose(tail, _KEPT_TAIL):
        return kept if tail >= _KEPT_TAIL * (1 - 1e-9) else None
    farther = student_quantile(tail, metric.freedom) / student_quantile(_KEPT_TAIL, metric.freedom)
    try:
        end = float(metric.value * (kept / metric.value) ** farther)
    except OverflowError:
        return None
    return end if math.isfinite(end) else None


def rounds_that_decide(rule: Rule, metric: Metric, look: int) -> int | None:
    """How many rounds of the `look`-th measurement would let a version pass at this value, in hundreds.

    The width of an interval goes with the root of the rounds.

    Returns:
        None if that can't be told, the value does not meet the bound, or more than `MAX_ROUNDS` would.
    """
    kept, bound = metric.low if rule.wants_more else metric.high, getattr(rule, rule.kind)
    if kept is None or metric.value is None or min(kept, metric.value, bound) <= 0 or look > MAX_LOOKS:
        return None
    side = -1 if rule.wants_more else 1
    allowed, found = side * math.log(bound / metric.value), side * math.log(kept / metric.value)
    if allowed <= 0:
        return None
    farther = _normal(_tail(rule, look)) / _normal(_KEPT_TAIL)
    if metric.freedom is not None:
        farther = student_quantile(_tail(rule, look), metric.freedom) / student_quantile(_KEPT_TAIL, metric.freedom)
    times = (found * farther / allowed) ** 2
    if metric.n * times > MAX_ROUNDS:
        return None
    return max(rule.min_n, _STEP * math.ceil(metric.n * times / _STEP))


def _tail(rule: Rule, look: int) -> float:
    return (1 - rule.one_sided) / 2.0 ** min(look, 1000)


def _normal(tail: float) -> float:
    return -NormalDist().inv_cdf(tail)


def _percent(confidence: float) -> str:
    return f"{100 * confidence:.6g}%"

"""How what was measured compares with a rule's bound: by its value, by the end of its interval, or image by image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from registry.evidence.number_text import END_DIGITS, bound_text, exact, number, significant
from registry.evidence.paired import Difference
from registry.evidence.results import PROPORTION, Metric
from registry.evidence.rule import Rule
from registry.evidence.stats import CONFIDENCE, n_that_decides, wilson
from registry.evidence.verdict import Outcome


@dataclass(frozen=True)
class Compared:
    """How a value compares with its bound: `reason` is the end of the sentence; for the rest see `Check`."""

    outcome: Outcome
    reason: str
    end: float | None = None
    wanted_n: int | None = None


def compare_value(rule: Rule, metric: Metric, value: float, bound: float, digits: int = END_DIGITS) -> Compared:
    """How a measured value compares with a bound, by the rule's kind of judgement; `digits` are of the end."""
    side = 1 if rule.wants_more else -1
    holds = side * value >= side * bound
    worse, better = (metric.low, metric.high) if rule.wants_more else (metric.high, metric.low)
    shown, limit = number(value, bound), bound_text(bound, value, is_relative=rule.is_relative)
    asked = f"{'at least' if rule.wants_more else 'at most'} {limit}"
    why = f": {rule.why}" if rule.why else ""
    if metric.n < rule.min_n:
        if not holds and better is not None and side * better < side * bound:
            return Compared("fail", f"{shown}, not {asked}, which {metric.n} samples suffice to tell{why}")
        wanted = _wanted_n(rule, metric, value, bound)
        few = f"{shown} on only {metric.n} samples: the rule asks for {rule.min_n}, and {wanted} would decide against"
        return Compared("inconclusive", f"{few} {limit} at this value", wanted_n=wanted)
    if not holds:
        return Compared("fail", f"{shown}, not {asked}{why}")
    if rule.judge == "bound":
        return _compare_end(rule, metric, value, bound, digits)
    if worse is not None and side * worse < side * bound:
        return Compared("pass", f"{shown}, {asked}; its interval reaches {number(worse, bound)}")
    return Compared("pass", f"{shown}, {asked}")


def _compare_end(rule: Rule, metric: Metric, value: float, bound: float, digits: int) -> Compared:
    """Whether the end of the one-sided interval meets a bound that the value meets."""
    sure = f"{100 * rule.one_sided:g}%"
    end, side = one_sided_end(metric, rule), 1 if rule.wants_more else -1
    asked = f"{'at least' if rule.wants_more else 'at most'} {exact(bound)}"
    shown = number(value, bound)
    if end is None:
        kept = "no interval" if metric.low is None else "an interval of less confidence only"
        return Compared("inconclusive", f"{shown}, but is it {asked} with {sure} confidence? It was kept with {kept}")
    end = significant(end, digits)
    if side * end >= side * bound:
        return Compared("pass", f"{shown}, and with {sure} confidence {asked} ({number(end, bound)})", end)
    wanted = _wanted_n(rule, metric, value, bound)
    then = f"; {wanted} samples would decide at this value"
    if value == bound:
        wanted, then = 0, "; no number of samples decides at this value"
    elif wanted <= metric.n:  # what is known of the metric's interval does not tell it
        wanted, then = 0, "; more samples may decide"
    reason = f"{shown} on {metric.n} samples: with {sure} confidence only {number(end, bound)}, not {asked}{then}"
    return Compared("inconclusive", reason, end, wanted or None)


def one_sided_end(metric: Metric, rule: Rule) -> float | None:
    """The end of a metric's one-sided interval on the rule's bad side; None where the evidence does not tell it.

    Of a proportion of independent samples it is Wilson's, at the rule's confidence. Of other metrics evidence keeps the
    two-sided 95% interval, each end of which holds with 97.5%: enough for a rule that asks for no more.
    """
    if metric.value is None or metric.low is None or metric.high is None:
        return None
    if metric.unit == PROPORTION and metric.n:
        right = round(metric.value * metric.n)
        plain = wilson(right, metric.n)
        if math.isclose(plain.low, metric.low, abs_tol=1e-9) and math.isclose(plain.high, metric.high, abs_tol=1e-9):
            ends = wilson(right, metric.n, 2 * rule.one_sided - 1)
            return ends.low if rule.wants_more else ends.high
    if rule.one_sided > (1 + CONFIDENCE) / 2:
        return None
    return metric.low if rule.wants_more else metric.high


def _wanted_n(rule: Rule, metric: Metric, value: float, bound: float) -> int:
    """How many samples would decide at this value; the rule's least number where that can't be told."""
    confidence = 2 * rule.one_sided - 1 if rule.judge == "bound" else CONFIDENCE
    is_share = metric.unit == PROPORTION and 0 <= value <= 1
    return max(rule.min_n, (n_that_decides(value, bound, confidence) if is_share else None) or 0)


def compare_paired(rule: Rule, found: Difference, value: float, base: float, digits: int = END_DIGITS) -> Compared:
    """How a difference to stable on the same images compares with what a rule allows.

    Args:
        value: the candidate's; `base` is stable's.
        digits: of the end.
    """
    side = 1 if rule.wants_more else -1
    sure, end = f"{100 * rule.one_sided:g}%", significant(base + found.end, digits)
    allowed = f"{exact(rule.margin)} {'below' if rule.wants_more else 'above'} stable"
    shown = f"{number(value, base + rule.allowance)}, on the same {found.n} images"
    if side * found.value < side * rule.allowance:
        return Compared("fail", f"{shown} more than {allowed}" + (f": {rule.why}" if rule.why else ""), end)
    if found.n < rule.min_n:
        return Compared("inconclusive", f"{shown}: the rule asks for {rule.min_n}", end, rule.min_n)
    if side * significant(found.end, digits) >= side * rule.allowance:
        return Compared("pass", f"{shown} and with {sure} confidence not more than {allowed}", end)
    then = f"{found.wanted_n} images would decide at this difference" if found.wanted_n else "more images may decide"
    least = "at least" if rule.wants_more else "at most"
    reason = f"{shown} maybe more than {allowed}, with {sure} confidence only {least} {number(end, value)}; {then}"
    return Compared("inconclusive", reason, end, found.wanted_n)

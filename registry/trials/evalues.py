"""Evidence that may be looked at after every event: e-values.

An e-value is at most 1 on average while a hypothesis holds, at whatever moment one looks: it is at most a mean of
supermartingales that begin with 1. So it ever reaches 1 / α with probability α at most (J. Ville, 1939; A. Ramdas and
others, "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38 (2023), 576). Computed from
counts in the logarithm, with the same bits whenever and wherever they are computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise

from registry.trials.exact import CONTEXT, ln, log_mean

RATIOS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""By how much a rate may be larger than what is allowed, in the alternatives whose mean is taken."""
_SPLITS = 100
"""Steps in which an allowed sum of two rates is divided between them."""
_NEARLY = 1e-6
"""Far more than what rough logarithms differ by between machines."""


@dataclass(frozen=True)
class Rate:
    """Units with an event, `x`, of those that could have it, `n`."""

    x: int
    n: int

    def __post_init__(self) -> None:
        """Raises: ValueError: `x` is not in 0..n."""
        _check(self.x, self.n)


@dataclass(frozen=True)
class ArmEvents:
    """Units with an event in one stage: of the canary, `x`, and of both arms, `n`.

    Attributes:
        share: the canary's share of the units, 0 to 1.
    """

    x: int
    n: int
    share: float

    def __post_init__(self) -> None:
        """Raises: ValueError: `x` is not in 0..n, or `share` not between 0 and 1."""
        _check(self.x, self.n)
        if not 0 < self.share < 1:
            raise ValueError(f"a share of {self.share} is not between 0 and 1")


@dataclass(frozen=True)
class EValue:
    """Evidence against a hypothesis.

    Attributes:
        log_e: the natural logarithm of the e-value.
        x, n: the counts that it was computed from, of all stages together.
    """

    log_e: float
    x: int
    n: int

    @property
    def e(self) -> float:
        """The e-value, for people; infinity above 10^308."""
        return math.exp(self.log_e) if self.log_e < 709 else math.inf

    def rejects(self, alpha: float) -> bool:
        """Whether the hypothesis is rejected, when this happens by chance with probability `alpha` at most."""
        return self.log_e >= -ln(Decimal(alpha))


def between_arms(stages: Sequence[ArmEvents], allowed: float = 1.0) -> EValue:
    """Evidence that the canary's rate of an event is more than `allowed` times that of stable.

    Given an event, it is the canary's with probability θ(m) = wm / (wm + 1 - w) at most while the ratio of the rates is
    m at most. So (θ(r) / θ(m))^x ((1 - θ(r)) / (1 - θ(m)))^(n - x) is a supermartingale for r > m; over stages with
    other shares w their products are, and then the mean over r in m · `RATIOS`.

    Args:
        allowed: the ratio m, above 0; 1 for no worse.

    Raises:
        ValueError: `allowed` is not above 0.
    """
    if not 0 < allowed < math.inf:
        raise ValueError(f"a ratio of {allowed} is not above 0")
    terms = zip(*(list(_arm_terms(stage, allowed)) for stage in stages), strict=True) if stages else [()]
    logs = [math.fsum(part for parts in term for part in parts) for term in terms]
    return EValue(log_mean(logs), sum(stage.x for stage in stages), sum(stage.n for stage in stages))


def against_bound(rate: Rate, bound: float) -> EValue:
    """Evidence that a rate is above a bound.

    The mean over p of (p / p0)^x ((1 - p) / (1 - p0))^(n - x), where p is the bound p0 times one of `RATIOS`; where
    that would reach 1, its odds are multiplied in place of the rate.

    Args:
        bound: above 0. Of 1 and more nothing can be evidence.

    Raises:
        ValueError: `bound` is not above 0.
    """
    return EValue(log_mean(_bound_logs(rate, bound)), rate.x, rate.n)


def ood_auroc(missed: Rate, alarmed: Rate, bound: float) -> EValue:
    """Evidence that the AUROC of the OOD flag is below a bound.

    The flag is one point of the ROC curve, that of the threshold in use; the area under the line through it is
    1 - (miss rate + false alarm rate) / 2. So the hypothesis is: the rates add up to s = 2 (1 - bound) at most. If the
    miss rate is in (a, b], the false alarm rate is at most s - a, and B(missed, b) · B(alarmed, s - a) is an e-value, B
    as in `against_bound`. The least of these over all steps (a, b] from 0 to s is at most the one that holds in truth:
    no step needs to be small for this, only many of them find more.

    Args:
        missed: images of none of the classes that were not flagged. `alarmed`: images of a class that were.
        bound: at least 0, below 1.

    Raises:
        ValueError: `bound` is out of its range.
    """
    if not 0 <= bound < 1:
        raise ValueError(f"an AUROC of {bound} is not a bound")
    allowed = 2 * (1 - bound)
    steps = [allowed * step / _SPLITS for step in range(_SPLITS + 1)]
    pairs = [(_bound_logs(missed, above), _bound_logs(alarmed, allowed - below)) for below, above in pairwise(steps)]
    return EValue(_least_product(pairs), missed.x + alarmed.x, missed.n + alarmed.n)


@dataclass(frozen=True)
class Cusum:
    """How far a rate has been above a bound of late, and at its highest, as logarithms.

    Attributes:
        x, n: the counts of all steps together.
    """

    log_m: float
    highest: float
    x: int
    n: int

    def alarms(self, run_length: float) -> bool:
        """Whether it has ever been so high that this takes `run_length` steps or more on average by chance alone."""
        return self.highest >= ln(Decimal(run_length))


def cusum(steps: Sequence[Rate], bound: float) -> Cusum:
    """An e-CUSUM of a rate against a bound: what was good long ago does not hide what is bad now.

    For each alternative p of `against_bound`, M = max(1, M) · L with the likelihood ratio L of each step; then the
    mean. While the rate is at most the bound, the mean number of steps until M reaches A is A at least: J. Shin, A.
    Ramdas and A. Rinaldo, "E-detectors", arXiv 2203.03532. The mean is taken of the Ms, and not of the Ls, since else a
    long good time would leave only the smallest alternative.

    Args:
        steps: the counts of each period, in order.

    Raises:
        ValueError: `bound` is not above 0.
    """
    logs, highest, log_m = [0.0] * len(RATIOS), 0.0, 0.0
    for step in steps:
        logs = [max(0.0, before) + now for before, now in zip(logs, _bound_logs(step, bound), strict=True)]
        log_m = log_mean(logs)
        highest = max(highest, log_m)
    return Cusum(log_m, highest, sum(step.x for step in steps), sum(step.n for step in steps))


def _least_product(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """The least product of two means, all by their logarithms. Exactly computed are those that are nearly the least."""
    rough = [_rough_log_mean(one) + _rough_log_mean(other) for one, other in pairs]
    near = min(rough) + _NEARLY
    return min(log_mean(one) + log_mean(other) for (one, other), each in zip(pairs, rough, strict=True) if each <= near)


def _rough_log_mean(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(each - top) for each in logs) / len(logs))


def _arm_terms(stage: ArmEvents, allowed: float) -> Iterator[tuple[float, float]]:
    """What a stage adds to the logarithm of each ratio: x ln(r / m) + n ln((wm + 1 - w) / (wr + 1 - w))."""
    return ((stage.x * per_x, stage.n * per_n) for per_x, per_n in _arm_factors(stage.share, allowed))


@lru_cache(maxsize=1024)
def _arm_factors(share: float, allowed: float) -> tuple[tuple[float, float], ...]:
    c, w, m = CONTEXT, Decimal(share), Decimal(allowed)

    def scale(ratio: Decimal) -> Decimal:
        return c.add(c.multiply(w, ratio), c.subtract(1, w))

    ratios = [Decimal(ratio) for ratio in RATIOS]
    return tuple((ln(ratio), ln(c.divide(scale(m), scale(c.multiply(m, ratio))))) for ratio in ratios)


def _bound_logs(rate: Rate, bound: float) -> list[float]:
    if not bound > 0:
        raise ValueError(f"a rate of {bound} is not above 0")
    if bound >= 1:
        return [0.0] * len(RATIOS)
    return [math.fsum((rate.x * with_, (rate.n - rate.x) * without)) for with_, without in _bound_factors(bound)]


@lru_cache(maxsize=4096)
def _bound_factors(bound: float) -> tuple[tuple[float, float], ...]:
    """ln(p / p0) and ln((1 - p) / (1 - p0)) of each alternative."""
    c, p0 = CONTEXT, Decimal(bound)
    rest = c.subtract(1, p0)
    found = []
    for ratio in map(Decimal, RATIOS):
        p = c.multiply(p0, ratio)
        if p >= 1:
            p = c.divide(p, c.add(rest, p))
        found.append((ln(c.divide(p, p0)), ln(c.divide(c.subtract(1, p), rest))))
    return tuple(found)


def _check(x: int, n: int) -> None:
    if not 0 <= x <= n:
        raise ValueError(f"{x} of {n} is no count")

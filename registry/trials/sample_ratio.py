"""Whether the arms have as many units as their shares say. If not, the trial is broken: nothing else can be judged.

The same is asked of labelled units: if labels come back more often from one arm, its accuracy is not comparable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from registry.trials.evalues import ArmEvents
from registry.trials.exact import CONTEXT, ln, log_gamma

BROKEN_AT = 1_000
"""The Bayes factor from which on the shares are wrong; by chance it is ever reached with probability 1 / 1,000."""
BROKEN_AT_THE_END = 0.001
"""The p-value below which they are, looked at once."""
_PRIOR = 100
_LOG_BROKEN = ln(Decimal(BROKEN_AT))


@dataclass(frozen=True)
class SampleRatio:
    """Evidence that the canary's share of the units is another one.

    Attributes:
        log_bayes: logarithm of the Bayes factor, which may be looked at any time.
        p_value: of the chi-square test, which may be looked at once, at the end.
        x, n: units of the canary, and of both arms.
        share: the canary's share as it should be.
    """

    log_bayes: float
    p_value: float
    x: int
    n: int
    share: float

    @property
    def is_broken(self) -> bool:
        """Whether the shares are wrong, at whatever moment one looks."""
        return self.log_bayes >= _LOG_BROKEN

    @property
    def is_broken_at_the_end(self) -> bool:
        """The same at the end, where one looks once more in another way."""
        return self.is_broken or self.p_value < BROKEN_AT_THE_END


def sample_ratio(counts: ArmEvents) -> SampleRatio:
    """The evidence in the units of one stage.

    The Bayes factor is that of a Dirichlet-multinomial with prior 100 · (w, 1 - w) against a multinomial with
    (w, 1 - w), a martingale while the shares are right: M. Lindon and A. Malek, "Anytime-valid inference for
    multinomial count data", NeurIPS 2022.
    """
    w, x, n = counts.share, counts.x, counts.n
    return SampleRatio(_log_bayes(x, n, w), _p_value(x, n, w), x, n, w)


def _log_bayes(x: int, n: int, share: float) -> float:
    c, w = CONTEXT, Decimal(share)
    terms = [c.subtract(log_gamma(Decimal(_PRIOR)), log_gamma(Decimal(_PRIOR + n)))]
    for count, part in ((x, w), (n - x, c.subtract(1, w))):
        prior = c.multiply(Decimal(_PRIOR), part)
        terms.append(c.subtract(log_gamma(c.add(prior, count)), log_gamma(prior)))
        terms.append(c.multiply(Decimal(-count), c.ln(part)))
    total = Decimal(0)
    for term in terms:
        total = c.add(total, term)
    return round(float(total), 12)


def _p_value(x: int, n: int, share: float) -> float:
    """P(chi-square with one degree of freedom > the statistic) = erfc(sqrt(statistic / 2)); 1 without units."""
    if n == 0:
        return 1.0
    statistic = (x - n * share) ** 2 / (n * share * (1 - share))
    return round(math.erfc(math.sqrt(statistic / 2)), 12)

"""What ours concludes at a look, by the rules of the default policy that roll back.

A trial's probability of a false rollback is divided among families of rules, and in a family among its rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from benchmarks.trials.traffic import Look
from registry.guard.rule_findings import IN_TRIAL
from registry.trials.counts import events_between, rate_of
from registry.trials.evalues import EValue, Rate, against_bound, between_arms, ood_auroc
from registry.trials.latency import TrialHour, late_windows, latency_evidence, slower_windows
from registry.trials.sample_ratio import sample_ratio

ERRORS, ACCURACY, LATENCY = (IN_TRIAL * alpha for alpha in (0.02, 0.02, 0.01))
"""The default probabilities of the families, for the trial."""
MAX_ERROR_RATE, MIN_ACCURACY, MIN_AUROC, MAX_MILLISECONDS, MAX_RATIO = 0.005, 0.94, 0.85, 220.0, 1.10

Verdict = Literal["rollback", "broken", ""]


def verdict(look: Look) -> Verdict:
    """The first of what holds: the shares of units are wrong, or a rule is surely not met.

    Rules that need labels are not asked where labels come back unevenly.
    """
    if _is_broken(look, "asked"):
        return "broken"
    if any(evidence.rejects(alpha) for evidence, alpha in _of_all_units(look)):
        return "rollback"
    if _is_broken(look, "labelled") or _is_broken(look, "ood"):
        return "broken"
    return "rollback" if any(evidence.rejects(alpha) for evidence, alpha in _of_labels(look)) else ""


def _is_broken(look: Look, event: str) -> bool:
    return any(sample_ratio(counts).is_broken for counts in events_between(look.stages, event))


def _of_all_units(look: Look) -> Iterator[tuple[EValue, float]]:
    yield between_arms(events_between(look.stages, "error")), ERRORS / 2
    yield against_bound(_rate(look, "error"), MAX_ERROR_RATE), ERRORS / 2
    hour = TrialHour.at(look.began, look.now)
    arms = [(stage.arms["canary"], stage.arms["stable"]) for stage in look.stages]
    slower = [slower_windows(canary, stable, MAX_RATIO, hour) for canary, stable in arms]
    late = [late_windows(canary, stable, MAX_MILLISECONDS, hour) for canary, stable in arms]
    for signs in (slower, late):
        yield latency_evidence(_sum(signs)), hour.alpha(LATENCY / 2)


def _of_labels(look: Look) -> Iterator[tuple[EValue, float]]:
    yield between_arms(events_between(look.stages, "wrong")), ACCURACY / 3
    yield against_bound(_rate(look, "wrong"), 1 - MIN_ACCURACY), ACCURACY / 3
    missed, alarmed = _rate(look, "missed"), _rate(look, "alarmed")
    # While the counts keep the bound themselves, the e-value is 1 at most: it need not be computed.
    if missed.n and alarmed.n and missed.x / missed.n + alarmed.x / alarmed.n > 2 * (1 - MIN_AUROC):
        yield ood_auroc(missed, alarmed, MIN_AUROC), ACCURACY / 3


def _rate(look: Look, event: str) -> Rate:
    return rate_of([stage.arms["canary"] for stage in look.stages], event)


def _sum(rates: list[Rate]) -> Rate:
    return Rate(sum(rate.x for rate in rates), sum(rate.n for rate in rates))

"""The policy's rules on a trial: each gets a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from registry.evidence.guard_rules import Bands, GuardRule, Severity
from registry.evidence.number_text import exact, number
from registry.evidence.policy import Policy
from registry.guard.facts import Facts
from registry.guard.finding import GuardFinding, Outcome
from registry.guard.rule_values import RuleValue, bake_value, trial_value
from registry.trials.evalues import Cusum, EValue

LOOK = Callable[[GuardRule], RuleValue]
_OUTCOMES: dict[Severity, Outcome] = {"rollback": "fail", "hold": "hold", "warn": "pass"}
_BY_LABELS = ("accuracy", "ood_auroc")
IN_TRIAL, AFTERWARDS = 0.8, 0.2
"""The parts of a rule's alpha for the trial, labels that come back late among it, and for the time after it: so what is
judged at both times goes back by chance no more often than what is judged once."""


def rule_findings(facts: Facts, policy: Policy, broken: frozenset[str], bake_seconds: int) -> Iterator[GuardFinding]:
    """What each rule says. After the trial those on labels are asked of the trial too: labels come late.

    Args:
        broken: events of which the arms do not have their shares, so that they can't be compared.
        bake_seconds: how long the version is watched after the trial.
    """
    rules = policy.guard_rules()
    places = {id(rule): place for place, rule in enumerate(rules)}
    for bands in Bands.of(rules):
        alpha = policy.alpha_of(bands.first)
        trial = _BandsJudge(bands, places, broken, IN_TRIAL * alpha)
        if not facts.is_baking:
            yield from trial.findings(lambda rule: trial_value(facts, rule))
            continue
        afterwards = _BandsJudge(bands, places, broken, AFTERWARDS * alpha)
        yield from afterwards.findings(lambda rule: bake_value(facts, rule, bake_seconds), waits=False)
        if bands.first.metric in _BY_LABELS:
            yield from trial.findings(lambda rule: trial_value(facts, rule), when=" (in its trial)", waits=False)


class _BandsJudge:
    """Judges the rules on one metric, the mildest bound first: a deeper one is tested only where that one is broken."""

    def __init__(self, bands: Bands, places: dict[int, int], broken: frozenset[str], alpha: float) -> None:
        self._bands, self._places, self._broken, self._alpha = bands, places, broken, alpha

    def findings(self, look: LOOK, *, when: str = "", waits: bool = True) -> Iterator[GuardFinding]:
        """A finding for each rule.

        Args:
            when: which time they are about, if not now.
            waits: whether the trial waits for data.
        """
        is_beyond = True
        for rule in self._bands.rules:
            found = look(rule)
            if not is_beyond:
                yield self._finding(rule, found, "pass", when, "the milder bound is not broken")
                continue
            yield self._judge(rule, found, when, waits)
            is_beyond = found.value is not None and found.rejects(self._alpha)

    def _judge(self, rule: GuardRule, found: RuleValue, when: str, waits: bool) -> GuardFinding:
        if not found.applies:
            return self._finding(rule, found, "pass", when, f"not asked: {found.problem}")
        if found.value is None:
            return self._missing(rule, found, when, waits)
        if self._is_not_comparable(rule):
            return self._finding(rule, found, "broken", when, "the arms do not have their shares: not comparable")
        if _size(found) < rule.min_n:
            is_waiting = waits and rule.severity != "warn"
            reason = f"decides nothing before {rule.min_n} units"
            return self._finding(rule, found, "hold" if is_waiting else "pass", when, reason)
        if not found.rejects(self._alpha):
            return self._finding(rule, found, "pass", when, "not significantly beyond the bound")
        if not _is_large(rule, found.value):
            return self._finding(rule, found, "pass", when, _how_small(rule, found, found.value))
        return self._finding(rule, found, _OUTCOMES[rule.severity], when, rule.consequence, is_told=True)

    def _missing(self, rule: GuardRule, found: RuleValue, when: str, waits: bool) -> GuardFinding:
        if rule.missing == "zero":
            return self._finding(rule, found, "pass", when, f"{found.problem}: counts as 0")
        is_waiting = waits and rule.severity != "warn"
        return self._finding(rule, found, "hold" if is_waiting else "pass", when, found.problem, is_told=is_waiting)

    def _is_not_comparable(self, rule: GuardRule) -> bool:
        """Whether a rule means nothing, as one of the arms has too many units: a comparison of the arms then; and what
        is known by labels, if it is not by chance for which answers they come back."""
        if rule.metric in _BY_LABELS:
            return bool(self._broken)
        return rule.is_relative and rule.family != "" and "asked" in self._broken

    def _finding(
        self, rule: GuardRule, found: RuleValue, outcome: Outcome, when: str, said: str, *, is_told: bool = False
    ) -> GuardFinding:
        evidence = found.evidence
        return GuardFinding(
            about=f"{rule}{when}", rule=self._places[id(rule)], outcome=outcome, dry_run=rule.dry_run, is_told=is_told,
            value=found.value, stable=found.stable, log_e=_log_e(evidence) if evidence else None,
            alpha=_alpha(found, self._alpha) if evidence else None,
            x=evidence.x if evidence else None, n=evidence.n if evidence else None,
            reason=f"{_numbers(rule, found)}{said}",
        )  # fmt: skip


def _log_e(evidence: EValue | Cusum) -> float:
    return evidence.highest if isinstance(evidence, Cusum) else evidence.log_e


def _size(found: RuleValue) -> int:
    return found.evidence.n if found.evidence else 1


def _alpha(found: RuleValue, alpha: float) -> float:
    """What the e-value, or the highest sum of a CUSUM, is compared with the inverse of."""
    return alpha / found.run_length if found.run_length else found.alpha(alpha)


def _is_large(rule: GuardRule, value: float) -> bool:
    """Whether a value is beyond the bound, by `min_effect` at least."""
    beyond = rule.bound - value if rule.wants_more else value - rule.bound
    return rule.is_broken_by(value) and round(beyond, 12) >= rule.min_effect


def _how_small(rule: GuardRule, found: RuleValue, value: float) -> str:
    """Why nothing follows of a value that is significant, or no matter of chance."""
    if found.evidence is None:
        return f"not by {exact(rule.min_effect)} beyond the bound" if rule.is_broken_by(value) else "within the bound"
    if rule.is_broken_by(value):
        return f"significant, but not by {exact(rule.min_effect)} beyond the bound"
    return "surely worse than stable, but within the bound" if rule.is_relative else "significant, but within the bound"


def _numbers(rule: GuardRule, found: RuleValue) -> str:
    if found.value is None:
        return ""
    against = f" of stable's {number(found.stable)}" if found.stable is not None else ""
    evidence = found.evidence
    counts = f", {evidence.x} of {evidence.n}" if evidence else ""
    return f"{number(found.value)}{against} beside {exact(rule.bound)}{counts}: "

"""What a rule of the guard looks at: the value of its metric, and the evidence that it is beyond the rule's bound.

The formulas are those of `registry.trials.evalues`; docs/trials.md says which one judges what.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.evidence.guard_rules import GuardRule
from registry.guard.facts import ArmFacts, Facts, UnitCount
from registry.trials.evalues import ArmEvents, Cusum, EValue, Rate, against_bound, between_arms, cusum, ood_auroc
from registry.trials.latency import MAX_RATIO, TrialHour, latency_evidence
from registry.trials.observations import WINDOW_SECONDS

_EVENTS = {"accuracy": "wrong", "error_rate": "error", "flagged_rate": "flagged"}
_DIGITS = 12


@dataclass(frozen=True)
class RuleValue:
    """What a rule looks at.

    Attributes:
        value: of the metric, or divided by stable's; None if there are no data.
        stable: the value of stable, for a relative rule.
        evidence: that it is beyond the bound; None for what is no matter of chance.
        run_length: of a CUSUM, how many steps it takes on average to a false alarm; else None.
        hour: of the trial, for windows.
        problem: why there is no value, in words.
        applies: whether the rule asks something here at all.
    """

    value: float | None = None
    stable: float | None = None
    evidence: EValue | Cusum | None = None
    run_length: float | None = None
    hour: int = 0
    problem: str = ""
    applies: bool = True

    def rejects(self, alpha: float) -> bool:
        """Whether the evidence is strong enough; what is no matter of chance needs none."""
        if isinstance(self.evidence, Cusum):
            return self.evidence.alarms((self.run_length or 1.0) / alpha)
        return self.evidence is None or self.evidence.rejects(self.alpha(alpha))

    def alpha(self, alpha: float) -> float:
        """The part of a rule's alpha that this look has."""
        return TrialHour(self.hour, 0).alpha(alpha) if self.hour else alpha


def trial_value(facts: Facts, rule: GuardRule) -> RuleValue:
    """What a rule looks at in the stages of a trial."""
    arms = facts.arms
    if rule.metric in _EVENTS:
        return _relative(facts, rule) if rule.is_relative else _absolute(arms["canary"], rule)
    if rule.metric == "ood_auroc":
        return _auroc(arms["canary"], rule)
    if rule.metric == "adapter_memory_mb":
        return _memory(arms["canary"], arms["stable"], rule)
    return _windows(facts, rule)


def bake_value(facts: Facts, rule: GuardRule, bake_seconds: int) -> RuleValue:
    """What a rule looks at after the trial, where no other version answers beside it.

    Args:
        bake_seconds: how long the version is watched: a false alarm within that time has the rule's alpha.
    """
    arm = facts.arms["baking"]
    if rule.is_relative or rule.metric == "latency_ratio_p95":
        return RuleValue(applies=False, problem="no version answers beside it")
    if rule.metric in ("error_rate", "latency_ms_p95"):
        return _cusum(facts, rule, bake_seconds / WINDOW_SECONDS)
    if rule.metric == "ood_auroc":
        return _auroc(arm, rule)
    return _memory(arm, None, rule) if rule.metric == "adapter_memory_mb" else _absolute(arm, rule)


def _absolute(arm: ArmFacts, rule: GuardRule) -> RuleValue:
    """Formula B: a rate against a bound. What is bad is counted, so that more of it is worse."""
    counts = arm.rates[_EVENTS[rule.metric]]
    bad, bound = _bad(counts, rule), round(1 - rule.bound, _DIGITS) if rule.wants_more else rule.bound
    return RuleValue(_rate(counts, rule), None, against_bound(bad, bound), problem=_no_units(rule, arm, counts))


def _relative(facts: Facts, rule: GuardRule) -> RuleValue:
    """Formula A over the stages, F in a shadow trial, with m = 1: how large a difference has to be, the value says."""
    event = _EVENTS[rule.metric]
    canary, stable = (facts.arms[name].rates[event] for name in ("canary", "stable"))
    mine, other = _rate(canary, rule), _rate(stable, rule)
    # That stable has more of what is good to have more of is the same question with the arms changed.
    is_swapped = rule.wants_more and rule.metric != "accuracy"
    counts = [(stage.between[event], stage.share) for stage in facts.stages]
    stages = [ArmEvents(one.n - one.x if is_swapped else one.x, one.n, 1 - w if is_swapped else w) for one, w in counts]
    problem = _no_units(rule, facts.arms["canary"], canary) or _no_units(rule, facts.arms["stable"], stable)
    return RuleValue(_ratio(mine, other), other, between_arms(stages), problem=problem)


def _auroc(arm: ArmFacts, rule: GuardRule) -> RuleValue:
    missed, alarmed = arm.rates["missed"], arm.rates["alarmed"]
    if not missed.n or not alarmed.n:
        which = "_ood" if not missed.n else "of a class"
        return RuleValue(problem=f"no label {which} came back for {arm.version}")
    value = 1 - (missed.x / missed.n + alarmed.x / alarmed.n) / 2
    evidence = ood_auroc(Rate(missed.x, missed.n), Rate(alarmed.x, alarmed.n), rule.bound)
    return RuleValue(round(value, _DIGITS), None, evidence)


def _memory(arm: ArmFacts, stable: ArmFacts | None, rule: GuardRule) -> RuleValue:
    if arm.memory_mb is None or (rule.is_relative and (stable is None or stable.memory_mb is None)):
        return RuleValue(problem="no replica says what its adapters take")
    if rule.is_relative and stable:
        return RuleValue(_ratio(arm.memory_mb, stable.memory_mb), stable.memory_mb)
    return RuleValue(arm.memory_mb)


def _windows(facts: Facts, rule: GuardRule) -> RuleValue:
    """Formula D: signs of windows, each hour of the trial by itself."""
    if rule.metric == "latency_ms_p95" and facts.trial.kind == "shadow":
        return RuleValue(applies=False, problem="nobody waits for it in a shadow trial")
    signs = facts.signs_of(rule)
    if signs is None or not signs.seen:
        return RuleValue(problem="no window of ten seconds has enough requests")
    return RuleValue(signs.value, None, latency_evidence(Rate(signs.x, signs.n)), hour=facts.hour)


def _cusum(facts: Facts, rule: GuardRule, run_length: float) -> RuleValue:
    """Formula E: an e-CUSUM over the windows after the trial."""
    steps = facts.steps_of(rule)
    if steps is None or not steps.steps:
        return RuleValue(problem="no window of ten seconds has enough requests")
    bound = rule.bound if rule.metric == "error_rate" else 0.5
    return RuleValue(steps.value, None, cusum([Rate(x, n) for x, n in steps.steps], bound), max(1.0, run_length))


def _bad(counts: UnitCount, rule: GuardRule) -> Rate:
    is_bad = rule.metric == "accuracy" or not rule.wants_more
    return Rate(counts.x if is_bad else counts.n - counts.x, counts.n)


def _rate(counts: UnitCount, rule: GuardRule) -> float | None:
    """The value of a metric."""
    if not counts.n:
        return None
    share = counts.x / counts.n
    return round(1 - share if rule.metric == "accuracy" else share, _DIGITS)


def _ratio(value: float | None, stable: float | None) -> float | None:
    if value is None or stable is None:
        return None
    if stable == 0:
        return 1.0 if value == 0 else MAX_RATIO
    return round(min(value / stable, MAX_RATIO), _DIGITS)


def _no_units(rule: GuardRule, arm: ArmFacts, counts: UnitCount) -> str:
    if counts.n:
        return ""
    return f"no label came back for {arm.version}" if rule.metric == "accuracy" else f"nobody asked {arm.version}"

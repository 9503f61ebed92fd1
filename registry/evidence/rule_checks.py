"""What becomes of one rule: which evidence it looks at, and how that compares with its bound or with stable's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from registry.evidence.candidate import Candidate
from registry.evidence.comparison import Compared, compare_paired, compare_value
from registry.evidence.looks import MAX_LOOKS, compare_look, look_confidence, rounds_that_decide
from registry.evidence.metrics import (
    MAX_ROUNDS,
    benchmark_of,
    is_of_a_test,
    is_time_of_one_run,
    ratio_for,
    recording_command,
)
from registry.evidence.number_text import ALL_DIGITS, END_DIGITS, number
from registry.evidence.paired import CompareOptions, compare
from registry.evidence.results import Evidence, Metric, ReadOutcomes
from registry.evidence.rule import Rule
from registry.evidence.verdict import Check, Outcome
from registry.tree.layout import FILES_FLAVOR

_SHOWN_KEYS, _SHOWN_KEY = 3, 300
_NOT_UNDONE = "; measuring again can't undo it: if the machine was disturbed then, promote with `--force --reason …`"


@dataclass(frozen=True)
class _Sample:
    """The metric that a rule checks and the evidence that holds it, or neither."""

    target: str | None
    metric: Metric | None = None
    source: Evidence | None = None

    @property
    def value(self) -> float | None:
        return self.metric.value if self.metric else None

    @property
    def n(self) -> int:
        return self.metric.n if self.metric else 0


@dataclass(frozen=True)
class Against:
    """What relative rules compare with: the stable version, what was measured of it, and the outcomes of both.

    Attributes:
        meaning: that of rules, see `MEANING`.
        unread: keys of evidence of the candidate that could not be read.
    """

    stable: Candidate | None
    evidence: Sequence[Evidence]
    outcomes: ReadOutcomes
    meaning: int
    unread: tuple[str, ...] = ()

    @property
    def is_first_meaning(self) -> bool:
        """Whether rules mean what they did in the first release."""
        return self.meaning == 1

    @property
    def digits(self) -> int:
        """Significant digits of the ends of intervals."""
        return ALL_DIGITS if self.is_first_meaning else END_DIGITS


def check_rule(rule: Rule, candidate: Candidate, ours: Sequence[Evidence], against: Against) -> list[Check]:
    """The checks of a rule: one, or one of each target. `ours` is what was measured of the candidate, newest first."""
    if rule.is_ratio:
        check = _check_ratio(rule, candidate, ours, against)
        return [_with_unread(check, against.unread) if against.unread and against.stable else check]
    source = _newest_with(rule, ours)
    if source is None and (elsewhere := _newest_with(rule, ours, on_any_machine=True)):
        command = _measure(rule, candidate)
        return [
            _check_elsewhere(rule, one, command)
            if one.metric or against.is_first_meaning
            else _check_sample(rule, candidate, one, None, against.digits)
            for one in _sample(rule, elsewhere, candidate.targets)
        ]
    samples = _sample(rule, source, candidate.targets)
    if not rule.is_relative:
        return [_check_sample(rule, candidate, one, getattr(rule, rule.kind, None), against.digits) for one in samples]
    theirs = [one for one in against.evidence if source and one.data.sha256 == source.data.sha256]
    reference = _newest_with(rule, theirs)
    return [_check_relative(rule, candidate, sample, against, reference) for sample in samples]


def _check_ratio(rule: Rule, candidate: Candidate, ours: Sequence[Evidence], against: Against) -> Check:
    """The check of a ratio to stable: of all measurements of it, as each is a new draw of chance."""
    stable = against.stable
    if stable is None:
        return _check(rule, _Sample(None), "pass", "there is no stable version to compare with")
    compared = [one for one in ours if _is_against(one, stable)]
    elsewhere = _all_with(rule, compared, on_any_machine=True)
    if not elsewhere:
        return _check_uncompared(rule, candidate, stable, ours)
    counting = _all_with(rule, compared)
    if not counting:
        command = _measure(rule, candidate, None if against.is_first_meaning else stable)
        return _check_elsewhere(rule, _sample(rule, elsewhere[0], ())[0], command)
    samples = [sample for one in counting for sample in _sample(rule, one, ())]
    if against.is_first_meaning:
        return _check_sample(rule, candidate, samples[0], getattr(rule, rule.kind, None), against.digits)
    whole = [one for one in samples if one.n >= rule.min_n]
    if whole and rule.judge == "bound":
        return _check_looks(rule, candidate, whole[::-1], against)
    checks = [
        _check_sample(rule, candidate, one, getattr(rule, rule.kind, None), against.digits) for one in whole or samples
    ]
    worst = max(checks, key=lambda check: _badness(rule, check))
    return _with_all_named(rule, worst, stable, len(checks))


def _check_looks(rule: Rule, candidate: Candidate, samples: Sequence[_Sample], against: Against) -> Check:
    """The check of all measurements of a ratio, oldest first. One that is surely worse refuses; else one that passes at
    its own level decides.
    """
    looks = [_check_look(rule, candidate, one, look, against.digits) for look, one in enumerate(samples, 1)]
    by_outcome = {outcome: [each for each in looks if each.outcome == outcome] for outcome in ("fail", "pass")}
    if by_outcome["fail"]:
        check = max(by_outcome["fail"], key=lambda each: _badness(rule, each))
        way_on = _NOT_UNDONE
    elif by_outcome["pass"]:
        check, way_on = by_outcome["pass"][0], ""
    else:  # the longest tells the most of how long another one has to be
        check = max(looks, key=lambda each: (each.n or 0, each.look or 0))
        check, way_on = _with_more_rounds(rule, candidate, samples, check, against)
    named = (
        f"; it is measurement {check.look} of {len(looks)} against {against.stable.version}" if against.stable else ""
    )
    reason = check.reason + (named if len(looks) > 1 else "") + way_on
    return check.model_copy(update={"reason": reason, "measurements": len(looks)})


def _check_look(rule: Rule, candidate: Candidate, sample: _Sample, look: int, digits: int) -> Check:
    if sample.metric is None or sample.value is None:
        return _check_sample(rule, candidate, sample, None, digits).model_copy(update={"look": look})
    check = _check_compared(rule, sample, compare_look(rule, sample.metric, look, digits), getattr(rule, rule.kind))
    sure = {"confidence": look_confidence(rule, look)} if check.end is not None else {}
    return check.model_copy(update={"look": look, **sure})


def _with_more_rounds(
    rule: Rule, candidate: Candidate, samples: Sequence[_Sample], check: Check, against: Against
) -> tuple[Check, str]:
    """A check that decides nothing, with the rounds that would; and how to measure them."""
    metric, following = samples[(check.look or 1) - 1].metric, len(samples) + 1
    if following > MAX_LOOKS or metric is None:
        return check, f"; no more than {MAX_LOOKS} measurements can let it pass: promote with `--force --reason …`"
    wanted = rounds_that_decide(rule, metric, following)
    rounds = min(MAX_ROUNDS, wanted or 2 * metric.n)
    then = "would decide at this value" if wanted else "may decide"
    command = f"{_measure(rule, candidate, against.stable)} --rounds {rounds}"
    sure = f"judged with {100 * look_confidence(rule, following):.6g}% confidence"
    told = check.model_copy(update={"wanted_n": wanted}) if wanted else check
    return told, f"; measure again: `{command}` {then}, {sure}"


def _badness(rule: Rule, check: Check) -> tuple[int, float]:
    """Orders the checks of one rule: a failure is worse than no decision, then the end or the value counts."""
    value = check.observed if check.end is None else check.end
    rank = ("pass", "inconclusive", "fail").index(check.outcome)
    return rank, math.inf if value is None else -value if rule.wants_more else value


def _with_all_named(rule: Rule, check: Check, stable: Candidate, measurements: int) -> Check:
    """The check of the worst measurement, saying what others there are, and the way on."""
    reason = check.reason
    if measurements > 1:
        reason += f"; it is the worst of {measurements} measurements against {stable.version}, and each must pass"
    if check.outcome != "pass" and (check.n or 0) >= rule.min_n:
        reason += _NOT_UNDONE
    return check.model_copy(update={"reason": reason, "measurements": measurements})


def _with_unread(check: Check, unread: Sequence[str]) -> Check:
    """The check of a ratio where some evidence can't be read: it may refuse, so nothing passes beside it."""
    if check.outcome == "fail":
        return check
    more = f" and {len(unread) - _SHOWN_KEYS} more" if len(unread) > _SHOWN_KEYS else ""
    keys = ", ".join(key[:_SHOWN_KEY] for key in unread[:_SHOWN_KEYS])
    reason = (
        f"evidence that can't be read may refuse it: {keys}{more}; bring it back from the "
        "bucket's own versions or a copy, read it with a later release, or promote with `--force --reason …`; else "
    )
    return check.model_copy(
        update={"outcome": "inconclusive", "bound": None, "reason": f"{reason}{check.reason}"[:4000]}
    )


def _is_against(evidence: Evidence, stable: Candidate) -> bool:
    return evidence.against is not None and evidence.against.manifest_sha256 == stable.manifest_sha256


def _check_uncompared(rule: Rule, candidate: Candidate, stable: Candidate, measured: Sequence[Evidence]) -> Check:
    """The check of a ratio that was not measured against stable."""
    compared = [one.against for one in measured if one.against and one.metric(rule.metric)]
    others = sorted({one.version for one in compared if one.manifest_sha256 != stable.manifest_sha256})
    only = f", only against {', '.join(others)[:500]}" if others else ""
    said = f"{rule.metric} was not measured against {stable.version}, which is stable{only}"
    return _check(
        rule, _Sample(None), "inconclusive", f"{said}{_where(rule)}: run `{_measure(rule, candidate, stable)}`"
    )


def _check_elsewhere(rule: Rule, sample: _Sample, command: str) -> Check:
    """The check of a time that was measured on another machine than the rule's; `command` measures it."""
    machine = sample.source.machine if sample.source else None
    told = f"on {machine}" if machine else "on a machine that is not known"
    said = f"{_what(rule, sample)} was measured {told}, and the rule is for {rule.machine}"
    return _check(rule, sample, "inconclusive", f"{said}: run `{command}` there")


def _newest_with(rule: Rule, evidence: Sequence[Evidence], *, on_any_machine: bool = False) -> Evidence | None:
    """The newest of `_all_with`."""
    return next(iter(_all_with(rule, evidence, on_any_machine=on_any_machine)), None)


def _all_with(rule: Rule, evidence: Sequence[Evidence], *, on_any_machine: bool = False) -> list[Evidence]:
    """The evidence that holds the rule's metric, on the rule's device, runtime and machine."""
    return [
        one
        for one in evidence
        if rule.device in (None, one.device)
        and rule.runtime in (None, one.runtime)
        and (on_any_machine or rule.machine is None or rule.machine.is_met_by(one.machine))
        and any(metric.name == rule.metric for metric in one.metrics)
    ]


def _sample(rule: Rule, source: Evidence | None, targets: Sequence[str]) -> list[_Sample]:
    """The metrics that the rule checks: the aggregate, each target, or one number made of all targets."""
    scope: Sequence[str | None] = targets if rule.per != "all" and targets else (None,)
    samples = [_Sample(target, source.metric(rule.metric, target) if source else None, source) for target in scope]
    if rule.per in ("all", "target"):
        return samples
    # The worst or the mean of the measured targets would hide those that were not measured.
    missing = [sample for sample in samples if sample.value is None]
    if missing:
        return missing
    metrics = [sample.metric for sample in samples if sample.metric]
    chosen = _mean(metrics) if rule.per == "mean" else _worst(rule, metrics)
    return [_Sample(chosen.target, chosen, source)]


def _worst(rule: Rule, metrics: Sequence[Metric]) -> Metric:
    choose = min if rule.wants_more else max
    return choose(metrics, key=lambda metric: math.nan if metric.value is None else metric.value)


def _mean(metrics: Sequence[Metric]) -> Metric:
    values = [metric.value for metric in metrics if metric.value is not None]
    # No interval: the targets' own do not combine into one without knowing how they depend on each other.
    return Metric.of(metrics[0].name, math.fsum(values) / len(values), n=sum(metric.n for metric in metrics))


def _check_relative(
    rule: Rule, candidate: Candidate, sample: _Sample, against: Against, reference: Evidence | None
) -> Check:
    stable = against.stable
    if sample.value is None:
        return _check_sample(rule, candidate, sample, None, against.digits)
    if stable is None:
        return _check(rule, sample, "pass", "there is no stable version to compare with")
    if rule.per == "target" and sample.target not in stable.targets:
        return _check(rule, sample, "pass", f"{stable.version} has no target {sample.target} to compare with")
    if is_time_of_one_run(rule.metric) and not against.is_first_meaning:
        return _check_of_two_runs(rule, candidate, sample, stable)
    base = _base(rule, sample, _sample(rule, reference, stable.targets))
    if base is None or reference is None:
        command = _measure(rule, stable)
        return _check(rule, sample, "inconclusive", f"measure {stable.version} first, on the same data: `{command}`")
    if rule.judge == "paired":
        check = _check_paired(rule, candidate, sample, base, against, reference)
    else:
        check = _check_sample(rule, candidate, sample, base + rule.allowance, against.digits)
    aside = f"; stable {stable.version} has {number(base, sample.value)}"
    return check.model_copy(update={"reason": check.reason + aside, "stable_evidence": reference.sha256})


def _check_of_two_runs(rule: Rule, candidate: Candidate, sample: _Sample, stable: Candidate) -> Check:
    """The check of a time against stable's: machines are busy now and idle later, so it decides nothing."""
    ratio = Rule(metric=ratio_for(rule.metric), device=rule.device, runtime=rule.runtime)
    return _check(
        rule, sample, "inconclusive",
        f"{rule.metric} of two runs is not compared, as the load differs: ask for `{ratio.metric}` instead in the "
        f"policy (`max`, `judge: bound`), and run `{_measure(ratio, candidate, stable)}`",
    )  # fmt: skip


def _check_paired(
    rule: Rule, candidate: Candidate, sample: _Sample, base: float, against: Against, reference: Evidence
) -> Check:
    """Compare a sample with stable's answers for the same images; `base` is stable's value."""
    newer = against.outcomes(sample.source) if sample.source else ()
    older = against.outcomes(reference)
    options = CompareOptions(rule.margin, rule.wants_more, rule.one_sided)
    found = compare(rule.metric, sample.target, newer, older, options)
    if found is None or sample.value is None:
        asked = [one for one, known in ((candidate, newer), (against.stable, older)) if one and not known]
        remedy = " and ".join(f"`{_measure(rule, one)}`" for one in asked or [candidate])
        reason = f"{_what(rule, sample)}: what was answered for each image is not known: run {remedy}, on the same data"
        return _check(rule, sample, "inconclusive", reason)
    return _check_compared(
        rule, sample, compare_paired(rule, found, sample.value, base, against.digits), base + rule.allowance
    )


def _base(rule: Rule, sample: _Sample, others: Sequence[_Sample]) -> float | None:
    """Stable's value that a sample is compared with; None if it was not measured."""
    if rule.per in ("worst", "mean"):
        return others[0].value
    return next((other.value for other in others if other.target == sample.target), None)


def _check_sample(rule: Rule, candidate: Candidate, sample: _Sample, bound: float | None, digits: int) -> Check:
    if sample.metric is None or sample.value is None:
        problem = "was not measured" if sample.metric is None else "is not a number"
        what = f"{_what(rule, sample)} {problem}{_where(rule)}"
        return _check(rule, sample, "fail", f"{what}: {_remedy(rule, candidate, sample)}")
    if bound is None:
        return _check(rule, sample, "pass", f"{_what(rule, sample)} was measured: {number(sample.value)}")
    return _check_compared(rule, sample, compare_value(rule, sample.metric, sample.value, bound, digits), bound)


def _check_compared(rule: Rule, sample: _Sample, found: Compared, bound: float) -> Check:
    told = {"end": found.end, "wanted_n": found.wanted_n}
    return _check(rule, sample, found.outcome, f"{_what(rule, sample)} is {found.reason}", bound=bound).model_copy(
        update={name: value for name, value in told.items() if value is not None}
    )


def _what(rule: Rule, sample: _Sample) -> str:
    return rule.metric + (f" of {sample.target}" if sample.target else "")


def _check(rule: Rule, sample: _Sample, outcome: Outcome, reason: str, *, bound: float | None = None) -> Check:
    metric = sample.metric
    return Check(
        metric=rule.metric,
        rule=rule.document(),
        target=sample.target,
        observed=metric.value if metric else None,
        low=metric.low if metric else None,
        high=metric.high if metric else None,
        n=metric.n if metric else None,
        bound=bound,
        outcome=outcome,
        reason=reason,
        evidence=sample.source.sha256 if sample.source and metric else None,
    )


def _where(rule: Rule) -> str:
    place = " with ".join(filter(None, (rule.device, rule.runtime)))
    return f" on {place}" if place else ""


def _remedy(rule: Rule, candidate: Candidate, sample: _Sample) -> str:
    """What to do about a missing value. The benchmark may have noted the cause under the metric's name."""
    if candidate.flavor == FILES_FLAVOR and not is_of_a_test(rule.metric):
        return (
            f"a snapshot can't be measured; a policy with `by_flavor: {{{FILES_FLAVOR}: []}}` asks other things of it"
        )
    cause = sample.source.notes.get(rule.metric) if sample.source and sample.metric else None
    then = f"{str(cause)[:300]}, then " if cause else ""
    return f"{then}run `{_measure(rule, candidate)}`"


def _measure(rule: Rule, version: Candidate, against: Candidate | None = None) -> str:
    if is_of_a_test(rule.metric):
        return recording_command(rule.metric, version.version)
    device = f" --device {rule.device}" if rule.device else ""
    runtime = f" --runtime {rule.runtime}" if rule.runtime else ""
    other = f" --against {against.version}" if against else ""
    return f"ulora measure {version.version} --only {benchmark_of(rule.metric)}{device}{runtime}{other}"

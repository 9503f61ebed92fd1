"""Gates: judge a version by a policy's rules and its recorded evidence. Pure functions: no store, no clock.

The outcome of a check:

* the metric was not measured, or is NaN: fail, with its name and the benchmark to run;
* the rule is relative, and there is no stable version, or it does not have this target: pass, with a note;
* the rule is relative, and stable was not measured on the same data: inconclusive, "measure <stable> first";
* the metric is a ratio to another version: it counts only where that one is stable in the channel that is judged, else
  it is inconclusive, with the command that measures against stable; without a stable version it passes, with a note;
* the rule is for times of one machine, and they were measured on another one: inconclusive, naming both;
* there are fewer samples than the rule's `min_n`: inconclusive, with the n that would decide; but fail if the whole
  interval is on the wrong side of the bound;
* otherwise the observed value decides: a value that does not meet the bound fails. A pass whose interval contains the
  bound says so;
* with `judge: bound` the end of the one-sided interval must meet it too, else it is inconclusive;
* with `judge: paired` the difference to stable on the same images is judged, and the end of its interval must meet the
  bound. Where it is not known what both answered for each image, it is inconclusive, with the commands that find out.

A verdict fails if any check fails, else is inconclusive if any check is, else passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from registry.evidence.approvals import Approval, approvers
from registry.evidence.comparison import Compared, compare_paired, compare_value
from registry.evidence.metrics import benchmark_of
from registry.evidence.number_text import number
from registry.evidence.outcomes import ImageOutcome
from registry.evidence.paired import CompareOptions, compare
from registry.evidence.policy import Policy, Rule
from registry.evidence.results import Evidence, Metric
from registry.evidence.verdict import Check, Outcome, Verdict
from registry.evidence.verdict_inputs import RecordName
from registry.names import VersionName
from registry.tree.layout import FILES_FLAVOR
from registry.versions.manifest import Manifest

_ADAPTERS = "adapters/"


ReadOutcomes = Callable[[Evidence], Sequence[ImageOutcome]]


@dataclass(frozen=True)
class Candidate:
    """The version that is judged, or compared with: its name, content, targets, flavor, and manifest's digest."""

    model: str
    version: VersionName
    content_sha256: str
    targets: tuple[str, ...]
    flavor: str = ""
    manifest_sha256: str = ""

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The version that a manifest describes; its targets are its `adapters/<target>` components."""
        targets = sorted(name.removeprefix(_ADAPTERS) for name in manifest.components if name.startswith(_ADAPTERS))
        return cls(
            manifest.model, manifest.name, manifest.content_sha256, tuple(targets), manifest.flavor, manifest.sha256
        )


@dataclass(frozen=True)
class Past:
    """Proof that a version was stable in a channel.

    Attributes:
        channel: the channel.
        content_sha256: the content that was stable there.
        record_sha256: the record of the channel's log that made it stable.
        withdrawn: whether the channel was rolled back from it since.
        generation: of that record.
        head: the channel's newest record, which says whether it was withdrawn.
    """

    channel: str
    content_sha256: str
    record_sha256: str
    withdrawn: bool = False
    generation: int = 0
    head: RecordName | None = None


@dataclass(frozen=True)
class GateInputs:
    """What a verdict is made from besides the policy.

    Attributes:
        channel: the channel that would take the version.
        candidate: the version.
        evidence: of the version. Evidence of other content never counts, even if it has the same version name.
        past: proof that it was stable in the channel that the policy requires, None if it was not.
        withdrawn: whether the channel was rolled back from it, and it was not promoted since.
        stable: the version that relative rules compare with: the channel's stable, None where there is none.
        stable_evidence: what was measured of it.
        approvals: who said yes to the version, for any channel and content.
        outcomes: gives what a version answered for each image of a measurement; nothing where that was not kept.
    """

    channel: str
    candidate: Candidate
    evidence: Iterable[Evidence]
    past: Past | None = None
    withdrawn: bool = False
    stable: Candidate | None = None
    stable_evidence: Iterable[Evidence] = ()
    approvals: Iterable[Approval] = ()
    outcomes: ReadOutcomes = lambda evidence: ()


def judge(policy: Policy, inputs: GateInputs, *, timestamp: str, who: str) -> Verdict:
    """Judge whether a channel may take a version. `timestamp` is now (UTC, ISO 8601), `who` asks."""
    channel, candidate, stable = inputs.channel, inputs.candidate, inputs.stable
    ours = _of_content(inputs.evidence, candidate)
    against = _Against(stable, _of_content(inputs.stable_evidence, stable) if stable else [], inputs.outcomes)
    checks = [*_check_withdrawn(channel, candidate, inputs.withdrawn)]
    checks += _check_past(policy.required_channel(channel), candidate, inputs.past)
    checks += _check_approvals(policy.approvals(channel), channel, candidate, inputs.approvals)
    for rule in policy.rules_for(channel, candidate.version, candidate.flavor):
        checks += _check_rule(rule, candidate, ours, against)
    return Verdict(
        format=1,
        model=candidate.model,
        version=str(candidate.version),
        content_sha256=candidate.content_sha256,
        channel=channel,
        outcome=_worst_outcome(check.outcome for check in checks),
        checks=tuple(checks),
        policy=policy.digest,
        stable=str(stable.version) if stable else None,
        timestamp=timestamp,
        who=who[:500],
    )


def _of_content(evidence: Iterable[Evidence], candidate: Candidate) -> list[Evidence]:
    """The candidate's own evidence, newest first."""
    ours = [one for one in evidence if one.content_sha256 == candidate.content_sha256]
    return sorted(ours, key=lambda one: one.order, reverse=True)


def _worst_outcome(outcomes: Iterable[Outcome]) -> Outcome:
    found = set(outcomes)
    return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"


def _check_withdrawn(channel: str, candidate: Candidate, withdrawn: bool) -> Iterator[Check]:
    if withdrawn:
        reason = f"{candidate.version} was rolled back in {channel}: a fixed version needs a name of its own"
        yield Check(metric="withdrawn", rule={}, outcome="fail", reason=reason)


def _check_past(required: str | None, candidate: Candidate, past: Past | None) -> Iterator[Check]:
    if required is None:
        return
    outcome: Outcome = "fail"
    if past is None or past.channel != required:
        reason = f"{candidate.version} was never stable in {required}: promote it there first"
    elif past.content_sha256 != candidate.content_sha256:
        reason = f"what was stable in {required} under this name has other content"
    elif past.withdrawn:
        reason = f"{candidate.version} was withdrawn from {required}: promote it there again first"
    else:
        outcome, reason = "pass", f"was stable in {required}, record {past.record_sha256[:12]}"
    yield Check(metric="past", rule={"requires": required}, outcome=outcome, reason=reason)


def _check_approvals(needed: int, channel: str, candidate: Candidate, approvals: Iterable[Approval]) -> Iterator[Check]:
    if not needed:
        return
    found = approvers(approvals, channel, candidate.content_sha256)
    said = f"{len(found)} of {needed} approvals" + (f": {', '.join(found)}" if found else "")
    if len(found) < needed:
        said += f"; another person runs `ulora approve {candidate.version} --channel {channel}`"
    outcome: Outcome = "pass" if len(found) >= needed else "fail"
    yield Check(metric="approvals", rule={"approvals": needed}, outcome=outcome, reason=said[:4000])


@dataclass(frozen=True)
class _Sample:
    """The metric that a rule checks and the evidence that holds it, or neither."""

    target: str | None
    metric: Metric | None = None
    source: Evidence | None = None

    @property
    def value(self) -> float | None:
        return self.metric.value if self.metric else None


@dataclass(frozen=True)
class _Against:
    """What relative rules compare with: the stable version, what was measured of it, and the outcomes of both."""

    stable: Candidate | None
    evidence: Sequence[Evidence]
    outcomes: ReadOutcomes


def _check_rule(rule: Rule, candidate: Candidate, ours: Sequence[Evidence], against: _Against) -> list[Check]:
    if rule.is_ratio:
        if against.stable is None:
            return [_check(rule, _Sample(None), "pass", "there is no stable version to compare with")]
        measured, ours = ours, [one for one in ours if _is_against(one, against.stable)]
        if _newest_with(rule, ours, on_any_machine=True) is None:
            return [_check_uncompared(rule, candidate, against.stable, measured)]
    source = _newest_with(rule, ours)
    if source is None and (elsewhere := _newest_with(rule, ours, on_any_machine=True)):
        return [_check_elsewhere(rule, candidate, one) for one in _sample(rule, elsewhere, candidate.targets)]
    samples = _sample(rule, source, candidate.targets)
    if not rule.is_relative:
        return [_check_sample(rule, candidate, sample, getattr(rule, rule.kind, None)) for sample in samples]
    theirs = [one for one in against.evidence if source and one.data.sha256 == source.data.sha256]
    reference = _newest_with(rule, theirs)
    return [_check_relative(rule, candidate, sample, against, reference) for sample in samples]


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


def _check_elsewhere(rule: Rule, candidate: Candidate, sample: _Sample) -> Check:
    """The check of a time that was measured on another machine than the rule's."""
    machine = sample.source.machine if sample.source else None
    told = f"on {machine}" if machine else "on a machine that is not known"
    said = f"{_what(rule, sample)} was measured {told}, and the rule is for {rule.machine}"
    return _check(rule, sample, "inconclusive", f"{said}: run `{_measure(rule, candidate)}` there")


def _newest_with(rule: Rule, evidence: Sequence[Evidence], *, on_any_machine: bool = False) -> Evidence | None:
    """The newest evidence that holds the rule's metric, on the rule's device, runtime and machine."""
    return next(
        (
            one
            for one in evidence
            if rule.device in (None, one.device)
            and rule.runtime in (None, one.runtime)
            and (on_any_machine or rule.machine is None or rule.machine.is_met_by(one.machine))
            and any(metric.name == rule.metric for metric in one.metrics)
        ),
        None,
    )


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
    rule: Rule, candidate: Candidate, sample: _Sample, against: _Against, reference: Evidence | None
) -> Check:
    stable = against.stable
    if sample.value is None:
        return _check_sample(rule, candidate, sample, None)
    if stable is None:
        return _check(rule, sample, "pass", "there is no stable version to compare with")
    if rule.per == "target" and sample.target not in stable.targets:
        return _check(rule, sample, "pass", f"{stable.version} has no target {sample.target} to compare with")
    base = _base(rule, sample, _sample(rule, reference, stable.targets))
    if base is None or reference is None:
        command = _measure(rule, stable)
        return _check(rule, sample, "inconclusive", f"measure {stable.version} first, on the same data: `{command}`")
    if rule.judge == "paired":
        check = _check_paired(rule, candidate, sample, base, against, reference)
    else:
        check = _check_sample(rule, candidate, sample, base + rule.allowance)
    aside = f"; stable {stable.version} has {number(base, sample.value)}"
    return check.model_copy(update={"reason": check.reason + aside, "stable_evidence": reference.sha256})


def _check_paired(
    rule: Rule, candidate: Candidate, sample: _Sample, base: float, against: _Against, reference: Evidence
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
    return _check_compared(rule, sample, compare_paired(rule, found, sample.value, base), base + rule.allowance)


def _base(rule: Rule, sample: _Sample, others: Sequence[_Sample]) -> float | None:
    """Stable's value that a sample is compared with; None if it was not measured."""
    if rule.per in ("worst", "mean"):
        return others[0].value
    return next((other.value for other in others if other.target == sample.target), None)


def _check_sample(rule: Rule, candidate: Candidate, sample: _Sample, bound: float | None) -> Check:
    if sample.metric is None or sample.value is None:
        problem = "was not measured" if sample.metric is None else "is not a number"
        what = f"{_what(rule, sample)} {problem}{_where(rule)}"
        return _check(rule, sample, "fail", f"{what}: {_remedy(rule, candidate, sample)}")
    if bound is None:
        return _check(rule, sample, "pass", f"{_what(rule, sample)} was measured: {number(sample.value)}")
    return _check_compared(rule, sample, compare_value(rule, sample.metric, sample.value, bound), bound)


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
    if candidate.flavor == FILES_FLAVOR:
        return (
            f"a snapshot can't be measured; a policy with `by_flavor: {{{FILES_FLAVOR}: []}}` asks other things of it"
        )
    cause = sample.source.notes.get(rule.metric) if sample.source and sample.metric else None
    then = f"{str(cause)[:300]}, then " if cause else ""
    return f"{then}run `{_measure(rule, candidate)}`"


def _measure(rule: Rule, version: Candidate, against: Candidate | None = None) -> str:
    device = f" --device {rule.device}" if rule.device else ""
    runtime = f" --runtime {rule.runtime}" if rule.runtime else ""
    other = f" --against {against.version}" if against else ""
    return f"ulora measure {version.version} --only {benchmark_of(rule.metric)}{device}{runtime}{other}"

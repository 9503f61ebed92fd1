"""Gates: judge a version by a policy's rules and its recorded evidence. Pure functions: no store, no clock.

The outcome of a check:

* the metric was not measured, or is NaN: fail, with its name and the benchmark to run;
* the rule is relative, and there is no stable version, or it does not have this target: pass, with a note;
* the rule is relative, and stable was not measured on the same data: inconclusive, "measure <stable> first";
* there are fewer samples than the rule's `min_n`: inconclusive, with the n that would decide; but fail if the whole
  interval is on the wrong side of the bound;
* otherwise the observed value decides: a value that does not meet the bound fails. A pass whose interval contains the
  bound says so;
* with `judge: bound` the end of the one-sided interval must meet it too, else it is inconclusive.

A verdict fails if any check fails, else is inconclusive if any check is, else passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from registry.evidence.metrics import benchmark_of
from registry.evidence.number_text import bound_text, exact, number
from registry.evidence.policy import Policy, Rule
from registry.evidence.results import PROPORTION, Evidence, Metric
from registry.evidence.stats import CONFIDENCE, n_that_decides, wilson
from registry.evidence.verdict import Check, Outcome, Verdict
from registry.names import VersionName
from registry.tree.layout import FILES_FLAVOR
from registry.versions.manifest import Manifest

_ADAPTERS = "adapters/"


@dataclass(frozen=True)
class Candidate:
    """The version that is judged, or compared with: its name, content, targets, and flavor."""

    model: str
    version: VersionName
    content_sha256: str
    targets: tuple[str, ...]
    flavor: str = ""

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The version that a manifest describes; its targets are its `adapters/<target>` components."""
        targets = sorted(name.removeprefix(_ADAPTERS) for name in manifest.components if name.startswith(_ADAPTERS))
        return cls(manifest.model, manifest.name, manifest.content_sha256, tuple(targets), manifest.flavor)


@dataclass(frozen=True)
class Past:
    """Proof that a version was stable in a channel.

    Attributes:
        channel: the channel.
        content_sha256: the content that was stable there.
        record_sha256: the record of the channel's log that made it stable.
        withdrawn: whether the channel was rolled back from it since.
    """

    channel: str
    content_sha256: str
    record_sha256: str
    withdrawn: bool = False


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
    """

    channel: str
    candidate: Candidate
    evidence: Iterable[Evidence]
    past: Past | None = None
    withdrawn: bool = False
    stable: Candidate | None = None
    stable_evidence: Iterable[Evidence] = ()


def judge(policy: Policy, inputs: GateInputs, *, timestamp: str, who: str) -> Verdict:
    """Judge whether a channel may take a version. `timestamp` is now (UTC, ISO 8601), `who` asks."""
    channel, candidate, stable = inputs.channel, inputs.candidate, inputs.stable
    ours = _of_content(inputs.evidence, candidate)
    theirs = _of_content(inputs.stable_evidence, stable) if stable else []
    checks = [*_check_withdrawn(channel, candidate, inputs.withdrawn)]
    checks += _check_past(policy.required_channel(channel), candidate, inputs.past)
    for rule in policy.rules_for(channel, candidate.version, candidate.flavor):
        checks += _check_rule(rule, candidate, ours, stable, theirs)
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


@dataclass(frozen=True)
class _Sample:
    """The metric that a rule checks and the evidence that holds it, or neither."""

    target: str | None
    metric: Metric | None = None
    source: Evidence | None = None

    @property
    def value(self) -> float | None:
        return self.metric.value if self.metric else None


def _check_rule(
    rule: Rule, candidate: Candidate, ours: Sequence[Evidence], stable: Candidate | None, theirs: Sequence[Evidence]
) -> list[Check]:
    source = _newest_with(rule, ours)
    samples = _sample(rule, source, candidate.targets)
    if not rule.is_relative:
        return [_check_sample(rule, candidate, sample, getattr(rule, rule.kind, None)) for sample in samples]
    reference = _newest_with(rule, [one for one in theirs if source and one.data.sha256 == source.data.sha256])
    return [_check_relative(rule, candidate, sample, stable, reference) for sample in samples]


def _newest_with(rule: Rule, evidence: Sequence[Evidence]) -> Evidence | None:
    """The newest evidence that holds the rule's metric, on the rule's device and runtime."""
    return next(
        (
            one
            for one in evidence
            if rule.device in (None, one.device)
            and rule.runtime in (None, one.runtime)
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
    rule: Rule, candidate: Candidate, sample: _Sample, stable: Candidate | None, reference: Evidence | None
) -> Check:
    if sample.value is None:
        return _check_sample(rule, candidate, sample, None)
    if stable is None:
        return _check(rule, sample, "pass", "there is no stable version to compare with")
    if rule.per == "target" and sample.target not in stable.targets:
        return _check(rule, sample, "pass", f"{stable.version} has no target {sample.target} to compare with")
    base = _base(rule, sample, _sample(rule, reference, stable.targets))
    if base is None:
        command = _measure(rule, stable)
        return _check(rule, sample, "inconclusive", f"measure {stable.version} first, on the same data: `{command}`")
    bound = base + (rule.max_increase or 0.0) - (rule.max_decrease or 0.0)
    check = _check_sample(rule, candidate, sample, bound)
    aside = f"; stable {stable.version} has {number(base, sample.value)}"
    return check.model_copy(
        update={"reason": check.reason + aside, "stable_evidence": reference.sha256 if reference else None}
    )


def _base(rule: Rule, sample: _Sample, others: Sequence[_Sample]) -> float | None:
    """Stable's value that a sample is compared with; None if it was not measured."""
    if rule.per in ("worst", "mean"):
        return others[0].value
    return next((other.value for other in others if other.target == sample.target), None)


def _check_sample(rule: Rule, candidate: Candidate, sample: _Sample, bound: float | None) -> Check:
    what = rule.metric + (f" of {sample.target}" if sample.target else "")
    if sample.metric is None or sample.value is None:
        problem = "was not measured" if sample.metric is None else "is not a number"
        return _check(rule, sample, "fail", f"{what} {problem}{_where(rule)}: {_remedy(rule, candidate, sample)}")
    if bound is None:
        return _check(rule, sample, "pass", f"{what} was measured: {number(sample.value)}")
    judged = _compare(rule, sample.metric, sample.value, bound)
    return _check(rule, sample, judged.outcome, f"{what} is {judged.reason}", bound=bound).model_copy(
        update={
            name: value for name, value in (("end", judged.end), ("wanted_n", judged.wanted_n)) if value is not None
        }
    )


@dataclass(frozen=True)
class _Compared:
    """How a value compares with its bound: `reason` is the end of the sentence; for the rest see `Check`."""

    outcome: Outcome
    reason: str
    end: float | None = None
    wanted_n: int | None = None


def _compare(rule: Rule, metric: Metric, value: float, bound: float) -> _Compared:
    side = 1 if rule.wants_more else -1
    holds = side * value >= side * bound
    worse, better = (metric.low, metric.high) if rule.wants_more else (metric.high, metric.low)
    shown, limit = number(value, bound), bound_text(bound, value, is_relative=rule.is_relative)
    asked = f"{'at least' if rule.wants_more else 'at most'} {limit}"
    why = f": {rule.why}" if rule.why else ""
    if metric.n < rule.min_n:
        if not holds and better is not None and side * better < side * bound:
            return _Compared("fail", f"{shown}, not {asked}, which {metric.n} samples suffice to tell{why}")
        wanted = _wanted_n(rule, metric, value, bound)
        few = f"{shown} on only {metric.n} samples: the rule asks for {rule.min_n}, and {wanted} would decide against"
        return _Compared("inconclusive", f"{few} {limit} at this value", wanted_n=wanted)
    if not holds:
        return _Compared("fail", f"{shown}, not {asked}{why}")
    if rule.judge == "bound":
        return _compare_end(rule, metric, value, bound)
    if worse is not None and side * worse < side * bound:
        return _Compared("pass", f"{shown}, {asked}; its interval reaches {number(worse, bound)}")
    return _Compared("pass", f"{shown}, {asked}")


def _compare_end(rule: Rule, metric: Metric, value: float, bound: float) -> _Compared:
    """Whether the end of the one-sided interval meets a bound that the value meets."""
    sure = f"{100 * rule.one_sided:g}%"
    end, side = one_sided_end(metric, rule), 1 if rule.wants_more else -1
    asked = f"{'at least' if rule.wants_more else 'at most'} {exact(bound)}"
    shown = number(value, bound)
    if end is None:
        kept = "no interval" if metric.low is None else "an interval of less confidence only"
        return _Compared("inconclusive", f"{shown}, but is it {asked} with {sure} confidence? It was kept with {kept}")
    if side * end >= side * bound:
        return _Compared("pass", f"{shown}, and with {sure} confidence {asked} ({number(end, bound)})", end)
    wanted = _wanted_n(rule, metric, value, bound)
    then = f"{wanted} samples would decide at this value" if wanted else "no number of samples decides at this value"
    reason = f"{shown} on {metric.n} samples: with {sure} confidence only {number(end, bound)}, not {asked}; {then}"
    return _Compared("inconclusive", reason, end, wanted or None)


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


def _measure(rule: Rule, version: Candidate) -> str:
    device = f" --device {rule.device}" if rule.device else ""
    return f"ulora measure {version.version} --only {benchmark_of(rule.metric)}{device}"

"""Gates: judge a version by a policy's rules and its recorded evidence. Pure functions: no store, no clock.

The outcome of a check:

* the metric was not measured, or is NaN: fail, with its name and the benchmark to run;
* the rule is relative, and there is no stable version, or it does not have this target: pass, with a note;
* the rule is relative, and stable was not measured on the same data: inconclusive, "measure <stable> first";
* the metric is a ratio to another version: it counts only where that one is stable in the channel that is judged, else
  it is inconclusive, with the command that measures against stable; without a stable version it passes, with a note.
  Every such measurement is a new draw of chance. With `judge: bound` one that is surely worse refuses for good; else
  one that meets the rule at a confidence of its own, higher for each, lets pass. Without, all must meet it;
* the metric is such a ratio, and some evidence of the version can't be read: it may refuse, so what passed is
  inconclusive, with the keys;
* the rule is relative, and about a time: inconclusive, as times of two runs are not compared, naming the ratio to use;
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

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from registry.evidence.approvals import Approval, approvers
from registry.evidence.candidate import Candidate
from registry.evidence.policy import Policy
from registry.evidence.results import Evidence, ReadOutcomes
from registry.evidence.rule_checks import Against, check_rule
from registry.evidence.verdict import Check, Outcome, Verdict
from registry.evidence.verdict_inputs import MEANING, RecordName


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
        unread: keys of evidence of the version that could not be read: each may hold a ratio that refuses it.
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
    unread: Sequence[str] = ()
    outcomes: ReadOutcomes = lambda evidence: ()


def judge(policy: Policy, inputs: GateInputs, *, timestamp: str, who: str, meaning: int = MEANING) -> Verdict:
    """Judge whether a channel may take a version.

    Args:
        timestamp: now (UTC, ISO 8601).
        who: who asks.
        meaning: what rules mean, see `MEANING`; another one only to compute an old verdict again.
    """
    channel, candidate, stable = inputs.channel, inputs.candidate, inputs.stable
    ours = _of_content(inputs.evidence, candidate)
    theirs = _of_content(inputs.stable_evidence, stable) if stable else []
    against = Against(stable, theirs, inputs.outcomes, meaning, tuple(inputs.unread))
    checks = [*_check_withdrawn(channel, candidate, inputs.withdrawn)]
    checks += _check_past(policy.required_channel(channel), candidate, inputs.past)
    checks += _check_approvals(policy.approvals(channel), channel, candidate, inputs.approvals)
    for rule in policy.rules_for(channel, candidate.version, candidate.flavor):
        checks += check_rule(rule, candidate, ours, against)
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

"""From facts to a conclusion: what the guard finds, and what it does about it. No I/O, and the same bits everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from registry.evidence.trial_policy import Plan, Step
from registry.formats.counts import counted
from registry.guard.facts import Breaker, Facts
from registry.guard.finding import MAX_REASON, GuardFinding, Outcome, worst
from registry.guard.rule_findings import rule_findings
from registry.serving.fleet import MAX_REPLICAS
from registry.trials.evalues import ArmEvents
from registry.trials.sample_ratio import BROKEN_AT, sample_ratio

Action = Literal["rollback", "advance", "alert", "hold", "none"]
FLAP_SECONDS = 1800
"""After it went back by itself, the guard does not do so again in this channel for so long: it alerts."""
LOAD_SECONDS = 60
"""For which a replica may still load the canary, or follow an earlier record, before that is told."""
_AGREE, _AGREE_SHARE = 2, 0.2
"""Replicas, and their share of the live ones, that have to report a failure before it is the version's fault."""


@dataclass(frozen=True)
class Conclusion:
    """What is concluded.

    Attributes:
        outcome: of all findings together.
        action: what follows. `alert`: a person has to look; `hold`: the trial waits; `none`: all is well.
        to: the version to go back to, or the share to advance to in percent; empty for the other actions.
        reasons: why, in lines without numbers that change from look to look.
    """

    findings: tuple[GuardFinding, ...]
    outcome: Outcome
    action: Action
    to: str = ""
    reasons: tuple[str, ...] = ()


def conclude(facts: Facts) -> Conclusion:
    """Judge the facts.

    Raises:
        ValueError: the policy in them does not follow the format.
    """
    findings = tuple(_findings(facts))
    outcome = worst(findings)
    reasons = tuple(finding.about for finding in findings if finding.counts and finding.outcome == outcome != "pass")
    if outcome == "fail":
        return Conclusion(findings, outcome, *_going_back(facts, reasons))
    late = _is_left_to_people(facts)
    if outcome == "broken" or (outcome == "hold" and late):
        return Conclusion(findings, outcome, "alert", "", (*reasons, *([_LEFT] if late else [])))
    if outcome == "hold":
        return Conclusion(findings, outcome, "hold", "", reasons)
    return Conclusion(findings, outcome, *_going_on(facts, late))


_LEFT = "the trial waits longer than the policy's max_hold: a person has to decide"


def _going_back(facts: Facts, reasons: tuple[str, ...]) -> tuple[Action, str, tuple[str, ...]]:
    target = facts.record.target if facts.is_baking else facts.record.stable
    if not target:
        return "alert", "", (*reasons, "there is no version to go back to")
    if facts.ages.last_rollback is not None and facts.ages.last_rollback < FLAP_SECONDS:
        return "alert", "", (*reasons, f"the guard went back here less than {FLAP_SECONDS // 60} minutes ago")
    return "rollback", target, reasons


# --- plans -----------------------------------------------------------------------------------------------------------


def bake_seconds(facts: Facts) -> int:
    """How long the version is watched after its trial; 0 if its plan does not say."""
    plan = facts.plan()
    return plan.steps[-1].bake_seconds if plan else 0


def _going_on(facts: Facts, late: bool) -> tuple[Action, str, tuple[str, ...]]:
    """What follows where nothing is against the version."""
    if facts.is_baking:
        return "none", "", ("it is watched",)
    plan = facts.plan()
    if facts.trial.plan is None or plan is None:
        missing = facts.trial.plan is not None
        said = f"the policy has no plan {facts.trial.plan}" if missing else "it has no plan: people advance it"
        return "alert" if missing or late else "none", "", (said,)
    if facts.trial.kind != "split":
        return "alert" if late else "none", "", ("a person ends a shadow trial",)
    if late:
        return "alert", "", (_LEFT,)
    return _by_plan(facts, plan)


def _by_plan(facts: Facts, plan: Plan) -> tuple[Action, str, tuple[str, ...]]:
    stage = facts.stages[-1]
    step, following = plan.step_at(stage.percent), plan.step_after(stage.percent)
    if following is None:
        return "none", "", (f"the plan {facts.trial.plan} ends here: a person decides",)
    if facts.ages.record < _hold_seconds(step):
        return "none", "", (f"it keeps its share for {step.hold if step else '0s'}",)
    if step and min(stage.asked.values()) < step.min_units:
        return "none", "", (f"it waits for {counted(step.min_units, 'unit')} of either arm",)
    if facts.frozen:
        return "hold", "", (f"the channel is frozen until {facts.frozen}",)
    return "advance", f"{following.percent:g}", (f"the plan {facts.trial.plan}: {step or 'its beginning'} is done",)


def _is_left_to_people(facts: Facts) -> bool:
    """Whether the stage of a trial is so old that the guard does not wait any more."""
    if facts.is_baking:
        return False
    plan = facts.plan()
    step = plan.step_at(facts.stages[-1].percent) if plan else None
    return facts.ages.record > _hold_seconds(step) + facts.kept_policy().trial_policy().max_hold_seconds


def _hold_seconds(step: Step | None) -> int:
    return step.hold_seconds if step else 0


# --- findings --------------------------------------------------------------------------------------------------------


def _findings(facts: Facts) -> Iterator[GuardFinding]:
    yield from map(_breaker, facts.breakers)
    ratios = list(_ratios(facts))
    yield from (finding for _, finding in ratios)
    yield from _fleet(facts)
    broken = frozenset(event for event, finding in ratios if finding.outcome == "broken")
    yield from rule_findings(facts, facts.kept_policy(), broken, bake_seconds(facts))


def _breaker(found: Breaker) -> GuardFinding:
    agree, of = found.replicas.count, found.of
    is_the_version = (agree >= _AGREE and agree >= _AGREE_SHARE * of) or agree == of == 1
    whose = "the version's fault" if is_the_version else "of too few to be the version's fault: look at them"
    return GuardFinding(
        about=f"{found.kind}, {whose}", outcome="fail" if is_the_version else "pass", is_told=True, x=agree, n=of,
        reason=f"{agree} of {counted(of, 'live replica')}: {found.replicas}"[:MAX_REASON],
    )  # fmt: skip


def _ratios(facts: Facts) -> Iterator[tuple[str, GuardFinding]]:
    """Whether each arm has its share of the units, in each stage."""
    for stage in facts.stages:
        for event, counts in stage.ratio.items():
            found = sample_ratio(ArmEvents(counts.x, counts.n, stage.share))
            share = counts.x / counts.n if counts.n else 0.0
            yield (
                event,
                GuardFinding(
                    about=f"share of the units that {_DID[event]} in generation {stage.generation}",
                    outcome="broken" if found.is_broken else "pass", is_told=found.is_broken,
                    value=round(share, 12), log_e=found.log_bayes, alpha=1 / BROKEN_AT, x=counts.x, n=counts.n,
                    reason=f"{100 * share:.3g}% are the canary's, and should be {100 * stage.share:g}%",
                ),
            )  # fmt: skip


_DID = {"asked": "asked", "labelled": "got a label of a class", "ood": "got the label _ood"}


def _fleet(facts: Facts) -> Iterator[GuardFinding]:
    fleet = facts.fleet
    if not fleet.live:
        yield _of_fleet("no replica has a fresh heartbeat", "hold", f"{fleet.silent} are silent")
    for about, named in (
        ("replicas without fresh observations", fleet.unobserved),
        ("replicas that tell of another trial than the record", fleet.contradicting),
        ("heartbeats or observations that can't be read", fleet.unread),
    ):
        if named.count:
            yield _of_fleet(about, "hold", f"{named.count}: {named}")
    if fleet.left_out:
        reason = f"{fleet.left_out} beyond the newest {MAX_REPLICAS:,}: advance the trial, end it, or start it again"
        yield _of_fleet(
            "more replicas have counted in the trial than the guard reads: a person decides", "hold", reason
        )
    if fleet.records.count:
        about = "records from before the trial that can't be read: `ulora history` tells more"
        yield _of_fleet(about, "pass", f"generation {fleet.records}")
    for about, named in (
        ("replicas that do not have the canary", fleet.apart),
        ("replicas that follow an earlier record", fleet.behind),
    ):
        if named.count:
            is_late = facts.ages.record > LOAD_SECONDS
            yield _of_fleet(about, "pass", f"{named.count}: {named}", is_told=is_late)


def _of_fleet(about: str, outcome: Outcome, reason: str, *, is_told: bool = True) -> GuardFinding:
    """What is told at once of a replica that starts would be told at every start: see `registry.guard.alerts`."""
    return GuardFinding(about=about, outcome=outcome, is_told=is_told, reason=reason[:MAX_REASON])

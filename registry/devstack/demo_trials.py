"""The demo's acts about trials: a good version in the shadow of stable, a bad one as a canary that the guard finds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from registry.channels.record import Record
from registry.devstack.demo_environment import DemoEnvironment
from registry.devstack.demo_releases import BAD, FIRST, SECOND, expect
from registry.devstack.demo_result import CanaryTrial, Exposure, ShadowTrial
from registry.devstack.traffic import accuracy
from registry.errors import GateRefused, UloraError
from registry.evidence.trial_report import TrialReport
from registry.formats.counts import counted
from registry.guard.decision import Decision
from registry.guard.decisions import Decisions
from registry.store import layout
from registry.usecases.options import CanaryOptions, ReportOptions

_PERCENT = 10.0
_SECONDS = 300.0
"""How long the demo waits for a verdict, or for the guard."""
_PAUSE = 0.2
_CHANNEL = "production"
Found = TypeVar("Found")


# --- the shadow trial ------------------------------------------------------------------------------------------------


def shadow_trial(demo: DemoEnvironment) -> ShadowTrial:
    """Let the second release read what the first one answers until the report says what to do; then it answers."""
    began = time.monotonic()
    _start_in_the_shadow(demo)
    demo.report(f"is tried in the shadow of {FIRST}", SECOND, "both read each image, and the first one answers")
    _wait_for(demo, lambda: _is_decided(demo), "the report of the shadow trial says what to do")
    found = demo.registry.canary.report()
    result = _shadow_trial(found.report, time.monotonic() - began)
    demo.report(f"gets the verdict {result.outcome}", SECOND, "; ".join(found.report.verdict.reasons))
    demo.timeline.show(_in_words(result))
    if not demo.data:
        expect(result.outcome == "ship" and bool(found.run), "the second release is better at what the traffic shows")
    moved = time.monotonic()
    demo.registry.canary.advance(reason=f"the report says: {result.outcome}")
    demo.load.wait_for(SECOND, moved)
    demo.report("answers everything; the change failed no request", SECOND)
    return result


def _start_in_the_shadow(demo: DemoEnvironment) -> None:
    """Start the trial. Where the user's own images make the gates refuse it, the demo does what a person may do."""
    start, options = demo.registry.canary.start, CanaryOptions(shadow=True)
    try:
        start(SECOND, options=options, reason="some photographs are in mist by now")
    except GateRefused as refused:
        if not demo.data:
            raise
        demo.report("the gates refuse it; the demo goes on by force, which stays on the record", SECOND, str(refused))
        start(SECOND, options=replace(options, force=True), reason="the demo shows the other steps too")


def _is_decided(demo: DemoEnvironment) -> bool | None:
    """True once the report says more than that it is too early."""
    found = demo.registry.canary.report(options=ReportOptions(log=False)).report
    return found.verdict.outcome != "keep running" or None


def _shadow_trial(found: TrialReport, seconds: float) -> ShadowTrial:
    stable, canary = (found.arms[name].rates["wrong"] for name in ("stable", "canary"))
    pairs = found.events["wrong"].pairs
    return ShadowTrial(
        version=found.trial.canary,
        outcome=found.verdict.outcome,
        reasons=found.verdict.reasons,
        labelled=found.labelled,
        accuracy_stable=1 - (stable.value or 0.0),
        accuracy_canary=1 - (canary.value or 0.0),
        only_canary_right=pairs.stable_only if pairs else 0,
        only_stable_right=pairs.canary_only if pairs else 0,
        seconds=seconds,
    )


def _in_words(trial: ShadowTrial) -> str:
    return (
        f"right of {counted(trial.labelled, 'labelled image')} that both read: {FIRST} {trial.accuracy_stable:.1%}, "
        f"{SECOND} {trial.accuracy_canary:.1%};\n"
        f"{trial.only_canary_right} of them only the new one, {trial.only_stable_right} only the old one;\n"
        "the whole report: `ulora canary report`, and a run in MLflow"
    )


# --- the canary ------------------------------------------------------------------------------------------------------


def bad_canary(demo: DemoEnvironment) -> CanaryTrial:
    """Let the bad version answer a tenth of the traffic, against the gates. Then nobody does anything but the guard."""
    demo.start_guard()
    demo.report("the guard watches production", detail="`ulora guard run`, a process of its own")
    good = accuracy(demo.load.by(SECOND)[-100:])
    options = CanaryOptions(percent=_PERCENT, force=True)
    began = time.monotonic()
    started = demo.registry.canary.start(BAD, options=options, reason="the release is due today")
    demo.report(f"gets {_PERCENT:g}% of the traffic, by force", BAD, f"the other answers are {good:.1%} right")
    ended = _wait_for(demo, lambda: _after(demo, started.generation), "the guard ends the canary")
    seconds = time.monotonic() - began
    expect(ended.who == "guard", "the guard ends the canary, and nobody else")
    decision = Decisions(demo.registry.store, demo.registry.model).read(_CHANNEL, ended.decision or "")
    _tell(demo, decision, seconds)
    demo.wait_for_replicas(ended.generation)
    cost = exposure(demo, _PERCENT, "the guard", began, seconds)
    demo.report(f"gave {counted(cost.answers, 'answer')}, {cost.wrong} of them wrong", BAD, _of_all(demo, began))
    _show_replay(demo, decision)
    demo.stop_guard()
    labelled = decision.facts.arms["canary"].rates["wrong"]
    incident = layout.incident(demo.registry.model, _CHANNEL, decision.sha256)
    return CanaryTrial(cost, labelled.n, labelled.x, decision.reasons, decision.sha256, incident)


def _tell(demo: DemoEnvironment, decision: Decision, seconds: float) -> None:
    """What the guard decided, and by what."""
    labelled = decision.facts.arms["canary"].rates["wrong"]
    by = f"{counted(labelled.n, 'labelled answer')}, {labelled.x} of them wrong"
    demo.report(f"is out: the guard went back to {SECOND}", BAD, f"after {seconds:.1f} s, by {by}; nobody was asked")
    found = (one for one in decision.findings if one.counts and one.outcome == decision.outcome)
    demo.timeline.show("\n".join(f"{finding.about}: {finding.reason}" for finding in found))


def exposure(demo: DemoEnvironment, percent: float, ended_by: str, began: float, seconds: float) -> Exposure:
    """What the bad version has answered since it got traffic, once it gets none any more.

    Args:
        began: by `time.monotonic`.
        seconds: from then to the record that ended it.
    """
    demo.load.wait_for_those_in_flight()
    answers = demo.load.by(BAD, began)
    wrong = sum(not answer.is_right for answer in answers)
    return Exposure(percent, ended_by, seconds, len(answers), wrong)


def compared(canary: Exposure, everybody: Exposure) -> str:
    """What the same bad version cost with and without a trial, as a table."""
    rows = [
        ("the bad version got", f"{canary.percent:g}% of the traffic", f"{everybody.percent:g}%"),
        ("ended by", canary.ended_by, everybody.ended_by),
        ("seconds until that", f"{canary.seconds:.1f}", f"{everybody.seconds:.1f}"),
        ("answers by it", str(canary.answers), str(everybody.answers)),
        ("of these wrong", str(canary.wrong), str(everybody.wrong)),
        ("wrong ones a second", *(f"{each.wrong / each.seconds:.1f}" for each in (canary, everybody))),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{name:{widths[0]}}  {one:{widths[1]}}  {other}" for name, one, other in rows)


def _after(demo: DemoEnvironment, generation: int) -> Record | None:
    """The newest record, if it is a later one."""
    head = demo.registry.channel(_CHANNEL).head()
    return head if head and head.generation > generation else None


def _of_all(demo: DemoEnvironment, began: float) -> str:
    """How much of the traffic that was."""
    since = [answer for answer in demo.load.answers if answer.at > began]
    wrong = sum(not answer.is_right and answer.version == BAD for answer in since)
    return f"that is {wrong / max(len(since), 1):.1%} of {counted(len(since), 'request')} meanwhile"


def _show_replay(demo: DemoEnvironment, decision: Decision) -> None:
    done = demo.ulora("guard", "replay", decision.sha256[:12])
    demo.timeline.show(f"$ {done.line}\n{done.out.strip()}")
    expect(done.code == 0, "the decision is computed again from what it holds", done)


# --- parts -----------------------------------------------------------------------------------------------------------


def _wait_for(demo: DemoEnvironment, found: Callable[[], Found | None], what: str) -> Found:
    deadline = time.monotonic() + _SECONDS
    while (value := found()) is None:
        demo.check()
        if time.monotonic() > deadline:
            raise UloraError(f"it was expected that {what}, but not in {_SECONDS:g} s")
        time.sleep(_PAUSE)
    return value

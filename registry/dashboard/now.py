"""What is served now: channels, replicas, the trial in progress, and what somebody should look at."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Self

from registry.answers import ChannelStatus, ReplicaStatus, Status
from registry.api import Registry
from registry.channels.trial_status import TrialStatus
from registry.dashboard import text
from registry.errors import StoreUnreachable, UloraError, first_line
from registry.evidence.policy import Policy, load_policy
from registry.evidence.trial_differences import Looks
from registry.evidence.trial_report import TrialReport
from registry.usecases.options import ReportOptions
from registry.usecases.trial_tables import EVENT_NAMES

MAX_REPLICAS = 500
"""Replicas that are shown of a channel; those that need a look come first."""
Level = Literal["error", "warning", "info"]
_LEVELS: tuple[Level, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class ShownAlert:
    """Something that somebody should look at."""

    level: Level
    channel: str
    said: str


@dataclass(frozen=True)
class EvidenceBar:
    """How strong the evidence is that the canary is worse, or better, as decimal logarithms of e-values.

    Attributes:
        enough: from here on it decides that the canary is worse.
    """

    about: str
    worse: float
    better: float
    enough: float
    is_worse: bool

    @classmethod
    def of(cls, about: str, looks: Looks) -> Self:
        """The evidence about one event, or about time."""
        tenth = math.log(10)
        return cls(
            about, looks.log_worse / tenth, looks.log_better / tenth, -math.log10(looks.alpha), is_worse=looks.is_worse
        )


@dataclass(frozen=True)
class ShownTrial:
    """A trial in progress, or one whose version is watched on.

    Attributes:
        report: None where it can't be made; then `problem` says why.
        waits_for: what the next step of its plan waits for, in words.
    """

    status: TrialStatus
    report: TrialReport | None
    problem: str
    waits_for: str


@dataclass(frozen=True)
class NowView:
    """Everything on the page. `trials` by channel."""

    status: Status
    trials: Mapping[str, ShownTrial]
    alerts: tuple[ShownAlert, ...]


def read_now(registry: Registry) -> NowView:
    """What is served now.

    Raises:
        StoreUnreachable, StoreDenied: the store does not answer.
        NotFound: there is no such store or model.
        BadPolicy: the policy can't be read.
    """
    status, policy = registry.status(), load_policy(registry.settings.policy)
    trials = {
        each.channel: _trial(registry, each.channel, each.trial, policy) for each in status.channels if each.trial
    }
    return NowView(status, trials, tuple(alerts(status, trials)))


def evidence_bars(report: TrialReport) -> list[EvidenceBar]:
    """The evidence of a trial, by what it is about."""
    found = [EvidenceBar.of(EVENT_NAMES[event], one.looks) for event, one in report.events.items()]
    return [*found, EvidenceBar.of("compute time", report.time.looks)]


def alerts(status: Status, trials: Mapping[str, ShownTrial]) -> list[ShownAlert]:
    """What somebody should look at, errors first."""
    found = [alert for each in status.channels for alert in _of_channel(each)]
    for channel, trial in trials.items():
        found += [ShownAlert(level, channel, said) for level, said in _of_trial(trial)]
    if status.probed and not status.probed.honoured:
        said = "the store ignored conditions of writes when this machine tested it last: run `ulora doctor`"
        found.append(ShownAlert("error", "", said))
    return sorted(found, key=lambda each: _LEVELS.index(each.level))


def replicas_in_order(channel: ChannelStatus) -> list[ReplicaStatus]:
    """Its replicas, those that need a look first, at most `MAX_REPLICAS`."""
    return sorted(channel.replicas, key=lambda each: (_is_well(each, channel), each.id))[:MAX_REPLICAS]


def _is_well(replica: ReplicaStatus, channel: ChannelStatus) -> bool:
    is_newest = replica.generation == channel.generation
    return is_newest and replica.state == "serving" and not replica.error and replica.proof != "differs"


def _of_channel(channel: ChannelStatus) -> Iterator[ShownAlert]:
    def alert(level: Level, said: str) -> ShownAlert:
        return ShownAlert(level, channel.channel, said)

    if channel.problem:
        yield alert("error", f"its newest record can't be read: {channel.problem}")
    if channel.decision and channel.action in ("rollback", "abort"):
        yield alert("warning", f"the guard went back at {text.when_text(channel.when)}: {channel.reason}")
    if channel.overruled:
        yield alert("warning", f"its newest change was forced; overruled: {channel.overruled}")
    if channel.stable and not channel.canary and not channel.rollback_target:
        yield alert("info", "a rollback has nowhere to go: it serves its oldest version that was not withdrawn")
    if names := [each.id for each in channel.replicas if each.proof == "differs"]:
        yield alert("error", f"other weights in memory than were released: {_some(names)}")
    if names := [each.id for each in channel.replicas if each.state in ("silent", "unreadable")]:
        yield alert("warning", f"silent, or not to be read: {_some(names)}")
    if named := [f"{each.id}: {each.error}" for each in channel.replicas if each.error]:
        yield alert("warning", f"problems of replicas: {_some(named)}")
    behind = [each.id for each in channel.replicas if each.generation < channel.generation and each.state != "silent"]
    if behind:
        yield alert("info", f"not at generation {channel.generation} yet: {_some(behind)}")


def _of_trial(trial: ShownTrial) -> Iterator[tuple[Level, str]]:
    if trial.problem:
        yield "warning", f"the trial can't be reported: {trial.problem}"
    if trial.report:
        outcome, reasons = trial.report.verdict.outcome, "; ".join(trial.report.verdict.reasons)
        if outcome == "broken":
            yield "error", f"the trial can't tell anything: {reasons}"
        elif outcome == "keep" and not trial.status.is_baking:
            yield "warning", f"the trial speaks against {trial.report.trial.canary}: {reasons}"
        elif outcome == "ship" and not trial.status.is_baking:
            yield "info", f"the trial speaks for {trial.report.trial.canary}: {reasons}"
        yield from (("info", note) for note in trial.report.notes[:5])


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _trial(registry: Registry, channel: str, trial: TrialStatus, policy: Policy) -> ShownTrial:
    try:
        found = registry.canary.report(channel, ReportOptions(trial=trial.id, log=False)).report
    except StoreUnreachable:
        raise
    except UloraError as error:
        return ShownTrial(trial, None, first_line(error), "")
    return ShownTrial(trial, found, "", waits_for(trial, found, policy, datetime.now(UTC)))


def waits_for(trial: TrialStatus, report: TrialReport, policy: Policy, now: datetime) -> str:
    """What the next step of a trial's plan waits for, in words."""
    plans = policy.trial_policy().plans or {}
    plan = plans.get(trial.plan or "")
    if trial.is_baking:
        return "its version is stable, and watched on"
    if plan is None:
        return "a person advances or ends it: it has no plan"
    percent = trial.shadow_percent if trial.shadow_percent is not None else trial.percent
    step, following = plan.step_at(percent), plan.step_after(trial.percent)
    if following is None or step is None:
        return "a person: its plan has no further step"
    began = text.moment(trial.since)
    held = (now - began).total_seconds() if began else 0.0
    stage = next((each for each in report.stages if each.generation == trial.generation), None)
    asked = stage.asked.get("canary", 0) if stage else 0
    units = f", {asked:,} of {step.min_units:,} units" if step.min_units else ""
    so_far = f"{text.duration(max(0.0, held))} so far{units}"
    return f"{following.percent:g}% follows after {step.hold or '0s'} at {step.percent:g}%: {so_far}"

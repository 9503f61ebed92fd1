"""The report of a trial: what each version did, how they differ, and one verdict. A pure function of what replicas have
counted, the records and the policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

from registry.channels.record import Record
from registry.evidence.policy import Policy
from registry.evidence.trial_differences import (
    EventDifference,
    LabelPairs,
    TimeDifference,
    UnitShare,
    arms_of,
    event_differences,
    unit_shares,
)
from registry.evidence.trial_figures import ArmFigures, TrialEvent
from registry.evidence.trial_policy import Alpha, Horizon
from registry.evidence.trial_verdict import TrialEvidence, TrialVerdict
from registry.formats import canonical
from registry.formats.counts import counted
from registry.formats.html import HtmlTable
from registry.trials.merge import MergedStage
from registry.trials.observations import ArmName
from registry.trials.split import UNITS

_FULL = 0.9


@dataclass(frozen=True)
class TrialEnd:
    """The record that ended a trial.

    Attributes:
        decision: digest of the guard's decision to do so; empty if a person did.
    """

    generation: int
    action: str
    who: str
    when: str
    reason: str = ""
    decision: str = ""

    @classmethod
    def of(cls, record: Record) -> Self:
        """By the record after those of the trial."""
        said = record.generation, record.action, record.who, record.when, record.reason
        return cls(*said, decision=record.decision or "")


@dataclass(frozen=True)
class ReportedTrial:
    """A trial, as the records tell.

    Attributes:
        began: when, in seconds since 1970. `since`: the same as the record says it.
        end: None while it runs.
    """

    model: str
    channel: str
    id: str
    kind: str
    stable: str
    canary: str
    plan: str
    began: float
    since: str
    end: TrialEnd | None = None

    @classmethod
    def of(cls, records: Sequence[Record], end: Record | None) -> Self:
        """A trial from its records, oldest first, and the record that ended it.

        Raises:
            ValueError: they are not of a trial.
        """
        first, trial = records[0], records[0].running_trial
        if first.stable is None or first.canary is None or trial is None:
            raise ValueError(f"generation {first.generation} of {first.channel} is no record of a trial")
        return cls(
            first.model, first.channel, trial.id, trial.kind, first.stable.version, first.canary.version,
            trial.plan or "", _seconds(first.when), first.when, TrialEnd.of(end) if end else None,
        )  # fmt: skip


@dataclass(frozen=True)
class StageFigures:
    """A stage: one generation. `percent` is the canary's share, `asked` the units by arm."""

    generation: int
    percent: float
    asked: Mapping[ArmName, int]


@dataclass(frozen=True)
class TrialReport(HtmlTable):
    """The report of a trial.

    Attributes:
        policy: digest of the policy; `horizon` and `alpha` are its own.
        labelled: units of either version whose labels came back, which the horizon counts.
        shares: of the units in each stage; empty in a shadow trial.
        labels: what both answered to the same images; None in a split trial.
        replicas: how many have counted.
        notes: what to know beside.
    """

    trial: ReportedTrial
    verdict: TrialVerdict
    policy: str
    horizon: Horizon
    alpha: Alpha
    labelled: int
    is_at_horizon: bool
    stages: tuple[StageFigures, ...]
    arms: Mapping[ArmName, ArmFigures]
    events: Mapping[TrialEvent, EventDifference]
    time: TimeDifference
    shares: tuple[UnitShare, ...]
    labels: LabelPairs | None
    replicas: int
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The report as JSON: the same for the same observations."""
        sections = {"horizon": self.horizon.model_dump(mode="json"), "alpha": self.alpha.model_dump(mode="json")}
        return {**asdict(self), **sections, "shares": [_share_document(each) for each in self.shares]}

    @property
    def sha256(self) -> str:
        """The digest of its content."""
        return canonical.sha256(canonical.encode(self.document()))


def report_of(
    trial: ReportedTrial, stages: Sequence[MergedStage], policy: Policy, notes: Sequence[str] = ()
) -> TrialReport:
    """The report of a trial.

    Args:
        stages: what was counted in its stages, in order; one at least, each with a canary.
        notes: what else to say in it.
    """
    trials = policy.trial_policy()
    arms: dict[ArmName, ArmFigures] = {"stable": _figures(stages, "stable"), "canary": _figures(stages, "canary")}
    found = TrialEvidence(
        arms=arms,
        events=event_differences(stages, trials),
        time=TimeDifference.of(stages, trials, trial.began),
        shares=unit_shares(stages),
        horizon=trials.horizon,
        has_ended=trial.end is not None,
    )
    return TrialReport(
        trial=trial,
        verdict=found.verdict(),
        policy=policy.digest,
        horizon=trials.horizon,
        alpha=trials.alpha,
        labelled=found.labelled,
        is_at_horizon=found.is_at_horizon,
        stages=tuple(map(_stage, stages)),
        arms=arms,
        events=found.events,
        time=found.time,
        shares=found.shares,
        labels=LabelPairs.of(stages) if trial.kind == "shadow" else None,
        replicas=len({name for stage in stages for name in stage.replicas}),
        notes=(*_notes(stages, found), *notes),
    )


def _figures(stages: Sequence[MergedStage], name: ArmName) -> ArmFigures:
    return ArmFigures.of(arms_of(stages, name))


def _stage(counted_stage: MergedStage) -> StageFigures:
    asked = {name: len(arm.of("asked")) for name, arm in counted_stage.arms.items()}
    return StageFigures(counted_stage.stage.generation, counted_stage.stage.weight, asked)


def _notes(stages: Sequence[MergedStage], found: TrialEvidence) -> Iterator[str]:
    if not any(stage.replicas for stage in stages):
        yield "no replica has counted anything yet"
    if apart := sorted({name for stage in stages for name in stage.contradicting}):
        yield f"left out, as they tell of another trial than the records: {', '.join(apart[:10])}"
    for name, arm in found.arms.items():
        for kind, replicas in arm.failures.items():
            yield f"{kind} of {arm.version} ({name}) at {counted(replicas, 'replica')}"
        if arm.asked > _FULL * UNITS:
            yield f"{arm.version} has {arm.asked:,} of the {UNITS:,} units that there are: later keys add nothing"
    if found.is_at_horizon and not found.has_ended:
        yield "the first report at the horizon decides: who looks again until one says something else, will find it"
    if found.time.ratio is None and found.labelled:
        yield "no latency: too few requests in ten seconds, or the last of them were more than an hour ago"


def _seconds(when: str) -> float:
    """A record's time; of one that says none, long ago."""
    try:
        return datetime.fromisoformat(when).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _share_document(each: UnitShare) -> dict[str, Any]:
    return {**asdict(each), "share": each.share}

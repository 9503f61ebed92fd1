"""What a decision of the guard is concluded from: counts, evidence of the fleet, ages and the policy; nothing else.

Observations are overwritten and deleted, so the counts that were made of them are kept. From these a decision can be
computed again, bit for bit, on any machine.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from registry.channels.trial import Trial
from registry.evidence.guard_rules import GuardPolicy, GuardRule
from registry.evidence.policy import ChannelPolicy, Policy
from registry.evidence.trial_policy import DEFAULT_PLAN, Plan, TrialPolicy
from registry.formats import canonical
from registry.formats.document import DocumentPart, Sha256
from registry.names import CHANNELS

MAX_NAMES = 20
"""Replicas that are named of any number."""
_NO_GATES = {name: ChannelPolicy() for name in CHANNELS}
_Count = Annotated[int, Field(ge=0, lt=10**15)]
_Text = Annotated[str, Field(max_length=120)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Seconds = Annotated[int, Field(ge=0, lt=10**12)]


class UnitCount(DocumentPart):
    """Units with an event, `x`, of `n` that could have it."""

    x: _Count
    n: _Count


class NamedReplicas(DocumentPart):
    """How many there are, and the names of the first."""

    count: _Count
    names: tuple[_Text, ...] = Field(max_length=MAX_NAMES)

    @classmethod
    def of(cls, names: set[str]) -> NamedReplicas:
        """These names, in order."""
        return cls(count=len(names), names=tuple(sorted(names)[:MAX_NAMES]))

    def __str__(self) -> str:
        more = self.count - len(self.names)
        return ", ".join(self.names) + (f" and {more} more" if more else "")


class RecordFacts(DocumentPart):
    """The newest record: what the observations are about.

    Attributes:
        canary: the version on trial; empty after the trial.
        target: where a rollback of stable goes; empty if there is no such version.
    """

    generation: int = Field(ge=1)
    sha256: Sha256
    action: str = Field(max_length=40)
    stable: _Text
    canary: _Text = ""
    target: _Text = ""


class Ages(DocumentPart):
    """Seconds by the store's clock.

    Attributes:
        record: since the newest record was written.
        trial: since the trial began.
        last_rollback: since the guard itself last went back in this channel; None if it has not lately.
    """

    record: _Seconds
    trial: _Seconds
    last_rollback: _Seconds | None = None


class FleetFacts(DocumentPart):
    """What is known of the replicas.

    Attributes:
        live: those with a fresh heartbeat.
        silent: those whose heartbeat has grown old, without their process having ended in order.
        unobserved: live ones without fresh observations.
        apart: live ones that take no part in the trial, as the canary is not in their memory.
        behind: live ones that serve an earlier record.
        contradicting: those that tell of other versions or another share than the record.
        unread: heartbeats and observations that can't be read.
        left_out: how many are too many to be read.
        records: generations from before the trial whose records can't be read.
    """

    live: _Count
    silent: _Count
    unobserved: NamedReplicas
    apart: NamedReplicas
    behind: NamedReplicas
    contradicting: NamedReplicas
    unread: NamedReplicas
    left_out: _Count = 0
    records: NamedReplicas = NamedReplicas(count=0, names=())


class Breaker(DocumentPart):
    """A failure that needs no statistics.

    Attributes:
        kind: one of `registry.trials.observations.Failure`.
        replicas: that report it; of a crash loop, the hosts.
        of: how many could; those that may be only cut off, or whose heartbeats can't be read, are among them.
    """

    kind: str = Field(max_length=40)
    replicas: NamedReplicas
    of: _Count


class StageUnits(DocumentPart):
    """Units in one stage of the trial.

    Attributes:
        percent: the canary's share of the keys; in a shadow trial that of the requests that both compute.
        share: the canary's share of the units that are compared, 0 to 1.
        asked: units of each arm.
        between: by event, those of the canary and of both arms, as formula A takes them; in a shadow trial those that
            exactly one version had.
        ratio: by event, the same for the sample ratio; empty in a shadow trial.
    """

    generation: int = Field(ge=1)
    kind: str = Field(max_length=20)
    percent: _Number
    share: _Number
    asked: dict[str, _Count] = Field(max_length=2)
    between: dict[str, UnitCount] = Field(max_length=20)
    ratio: dict[str, UnitCount] = Field(default_factory=dict, max_length=20)


class ArmFacts(DocumentPart):
    """One version in all stages of the trial together, or after it.

    Attributes:
        rates: by event, units that had it the first time.
        memory_mb: of the largest adapter of any replica.
    """

    version: _Text
    rates: dict[str, UnitCount] = Field(max_length=20)
    memory_mb: _Number | None = None


class WindowSigns(DocumentPart):
    """Windows of ten seconds that are against the canary, `x`, of `n` that are against either arm, in this hour.

    Attributes:
        seen: windows of the canary of the last hour of which the time is known.
        value: the median of them.
    """

    metric: str = Field(max_length=100)
    bound: _Number
    x: _Count
    n: _Count
    seen: _Count
    value: _Number | None = None


class WindowSteps(DocumentPart):
    """What the windows after the trial say, in order: of each ten seconds what counts against the version, of how much.

    Attributes:
        bound: of the latency; 0 for errors.
        steps: units with an error, of those that asked; or whether most replicas were late, of 1.
        value: the median of the latency, or the rate of errors.
    """

    metric: str = Field(max_length=100)
    bound: _Number = 0.0
    steps: tuple[tuple[_Count, _Count], ...] = Field(max_length=1000)
    value: _Number | None = None


class Facts(DocumentPart):
    """Everything that a decision is concluded from.

    Attributes:
        release: of ulora-registry that looked.
        is_baking: whether the trial's version is stable by now and is watched on.
        policy: digest of the policy; `trials` and `guard` are its sections as they hold.
        frozen: until when the channel takes no version; empty if it does.
        grid: the ratios of the alternatives of all e-values.
        looked: when, UTC, ISO 8601, by the store's clock.
        arms: `canary` and `stable` in the trial; `baking` after it.
        hour: of the trial, from 1, in which windows are compared.
    """

    release: str = Field(max_length=100)
    model: str = Field(max_length=100)
    channel: str = Field(max_length=100)
    record: RecordFacts
    trial: Trial
    is_baking: bool
    policy: Sha256
    trials: dict[str, Any]
    guard: dict[str, Any]
    frozen: str = Field(default="", max_length=100)
    grid: tuple[_Number, ...] = Field(max_length=100)
    looked: str = Field(max_length=40)
    ages: Ages
    fleet: FleetFacts
    breakers: tuple[Breaker, ...] = Field(max_length=20)
    stages: tuple[StageUnits, ...] = Field(max_length=100)
    arms: dict[str, ArmFacts] = Field(max_length=3)
    hour: int = Field(ge=1)
    signs: tuple[WindowSigns, ...] = Field(max_length=200)
    steps: tuple[WindowSteps, ...] = Field(max_length=200)

    @property
    def version(self) -> str:
        """The version that is tried."""
        return self.record.stable if self.is_baking else self.record.canary

    def kept_policy(self) -> Policy:
        """The policy's sections that decide, without its gates.

        Raises:
            ValueError: they do not follow the format.
        """
        return Policy(
            format=1, channels=_NO_GATES,
            trials=TrialPolicy.model_validate_json(canonical.encode(self.trials)),
            guard=GuardPolicy.model_validate_json(canonical.encode(self.guard)),
        )  # fmt: skip

    def plan(self) -> Plan | None:
        """The plan of the trial, None if people advance it; of what comes after it, the default one's counts then."""
        plans = self.kept_policy().trial_policy().plans or {}
        name = self.trial.plan or (DEFAULT_PLAN if self.is_baking else "")
        return plans.get(name)

    def signs_of(self, rule: GuardRule) -> WindowSigns | None:
        """The windows that a rule on latency is about."""
        return next((each for each in self.signs if (each.metric, each.bound) == (rule.metric, rule.bound)), None)

    def steps_of(self, rule: GuardRule) -> WindowSteps | None:
        """The same after the trial, also for errors."""
        bound = 0.0 if rule.metric == "error_rate" else rule.bound
        return next((each for each in self.steps if (each.metric, each.bound) == (rule.metric, bound)), None)

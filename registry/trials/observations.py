"""What a replica has counted in a channel's trials: an object of its own in the store, which only it overwrites.

The store is the bus: the guard reads these objects and no replica. `registry.trials.recorder` makes them,
`registry.trials.merge` brings those of all replicas together.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator

from registry.formats.document import Document, DocumentPart
from registry.trials.units import StoredUnits

ArmName = Literal["stable", "canary"]
EVENTS = ("asked", "error", "flagged", "labelled", "wrong", "alarmed", "ood", "missed")
"""Events of a unit: `asked`: it asked, answered or not. `error`: it got a 5xx of the version, or no finite number;
never 4xx, 429, 503 or 504 in the queue. `flagged`: an answer was flagged as OOD. `labelled`: the label of a class came
back; `wrong`: and the answer was another one; `alarmed`: and the answer was flagged. `ood`: the label `_ood` came back;
`missed`: and the answer was not flagged."""
BASES = {"error": "asked", "flagged": "asked", "wrong": "labelled", "alarmed": "labelled", "missed": "ood"}
"""The event that each other one is a share of."""
FIRST = "first_"
"""Before the name of an event: the first time that a replica saw the unit in the event's base, this happened too. Their
share is that of requests, however often a unit asks: one that asks a thousand times gets an error some time. So bounds
on rates are judged by them."""
Failure = Literal["load_failed", "digest_mismatch", "not_finite", "crash"]
"""Kinds of failures that need no statistics."""
LeftOut = Literal["", "forced", "without_canary", "not_shadowed", "shed"]
"""Why a request is left out of a trial's statistics, empty if it is not: the client chose the version; this replica
does not have the canary in memory; it is outside of the share of a shadow trial; there was no time for the canary. Each
has a counter of this name."""
WINDOW_SECONDS = 10
MAX_WINDOWS = 360
"""Windows of an arm that are kept: the last hour."""
MAX_STAGES = 16
MAX_PAIRS = 100
MAX_COUNTERS = 100
MAX_DAYS = 14
"""Days of a version that are kept: a week in which two versions answer each day."""
MAX_DAY_LABELS = 20
MAX_NUMBER = 10.0**9
"""Milliseconds or megabytes are below it."""

_Text = Annotated[str, Field(max_length=120)]
_Name = Annotated[str, Field(pattern=r"^[a-z0-9_.-]{1,40}$")]
_Count = Annotated[int, Field(ge=0, lt=10**15)]
_Milliseconds = Annotated[float, Field(ge=0, lt=MAX_NUMBER, allow_inf_nan=False)]


_UNITS = frozenset((*EVENTS, *(FIRST + event for event in BASES)))


@dataclass(frozen=True, order=True)
class TrialStage:
    """What a replica knows of the stage that a record began: one generation of a channel.

    Attributes:
        stable, canary: the versions; `canary` is empty where none runs.
        trial: the trial's id, empty where none runs.
        kind: `split` or `shadow`, empty where none runs.
        weight: percent of the keys that the canary answers, or sees in a shadow trial.
    """

    generation: int
    stable: str
    canary: str = ""
    trial: str = ""
    kind: str = ""
    weight: float = 0.0

    @property
    def salt(self) -> str:
        """What `registry.trials.split` takes for it."""
        return self.trial or f"generation-{self.generation}"

    def version(self, arm: ArmName) -> str:
        """The version of an arm."""
        return self.stable if arm == "stable" else self.canary


class Window(NamedTuple):
    """Ten seconds of an arm; it is written when they are over. In the document it is a list: most of a document are
    windows, and a guard holds those of all replicas in memory. What a later release adds gets a field beside them.

    Attributes:
        at: when it began by the replica's clock: seconds since 1970, divided by 10.
        n: requests. `asked`: their units; `errors`: units whose first request of the window failed.
        compute_p50, compute_p95: milliseconds of compute, of each unit's first request. `request_p50`, `request_p95`:
            milliseconds of the whole of it, which a canary in a shadow trial does not have.
    """

    at: Annotated[int, Field(ge=0, lt=10**11)]
    n: _Count
    asked: _Count = 0
    errors: _Count = 0
    compute_p50: _Milliseconds | None = None
    compute_p95: _Milliseconds | None = None
    request_p50: _Milliseconds | None = None
    request_p95: _Milliseconds | None = None


class ArmCounts(DocumentPart):
    """What one version did in a stage.

    Attributes:
        units: by event, one of `EVENTS`, or `FIRST` and one of `BASES`; events that never happened are left out.
        counters: for people: requests by outcome, those that were shed or forced, and so on.
        windows: the newest last.
        memory_mb: of its largest adapter.
        failures: by kind, one of `Failure`.
    """

    version: _Text
    units: dict[_Name, StoredUnits] = Field(default_factory=dict, max_length=40)
    counters: dict[_Name, _Count] = Field(default_factory=dict, max_length=MAX_COUNTERS)
    windows: tuple[Window, ...] = Field(default=(), max_length=MAX_WINDOWS)
    memory_mb: Annotated[float, Field(ge=0, lt=MAX_NUMBER, allow_inf_nan=False)] | None = None
    failures: dict[_Name, _Count] = Field(default_factory=dict, max_length=20)

    @field_validator("units", mode="before")
    @classmethod
    def _of_known_events(cls, units: Any) -> Any:
        """Those of a later release, or of somebody who fills the guard's memory, are not even unpacked."""
        if not isinstance(units, dict):
            return units
        return {event: found for event, found in units.items() if event in _UNITS}


class StageCounts(DocumentPart):
    """One stage; see `TrialStage` for what begins it.

    Attributes:
        pairs: of a shadow trial: how often `stable's label -> canary's label`, for people.
    """

    generation: int = Field(ge=0, lt=10**12)
    trial: str = Field(default="", pattern=r"^([0-9a-f]{32})?$")
    kind: str = Field(default="", pattern=r"^[a-z]{0,20}$")
    weight: float = Field(default=0.0, ge=0, le=100, allow_inf_nan=False)
    arms: dict[ArmName, ArmCounts]
    pairs: dict[Annotated[str, Field(max_length=100)], _Count] = Field(default_factory=dict, max_length=MAX_PAIRS)

    @field_validator("arms")
    @classmethod
    def _has_stable(cls, arms: dict[ArmName, ArmCounts]) -> dict[ArmName, ArmCounts]:
        if "stable" not in arms:
            raise ValueError("the arm `stable` is missing")
        return arms

    @property
    def stage(self) -> TrialStage:
        """Which stage it is."""
        versions = {arm: counts.version for arm, counts in self.arms.items()}
        return TrialStage(
            self.generation, versions.get("stable", ""), versions.get("canary", ""), self.trial, self.kind, self.weight
        )


class DayCounts(DocumentPart):
    """What one version answered on one day, for people.

    Attributes:
        day: UTC, by the replica's clock.
        answers: without errors, and without those that are left out of statistics; see `LeftOut`.
        flagged: those that were flagged as OOD.
        labels: how often each was answered; an image without a label has none.
    """

    day: str = Field(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")
    version: _Text
    answers: _Count
    flagged: _Count = 0
    labels: dict[Annotated[str, Field(max_length=40)], _Count] = Field(default_factory=dict, max_length=MAX_DAY_LABELS)

    @field_validator("day")
    @classmethod
    def _is_a_day(cls, day: str) -> str:
        date.fromisoformat(day)
        return day


class Observations(Document):
    """Everything that a replica has counted, the stages in order, the newest last.

    Attributes:
        days: of the newest days, by version.
        started, when: when counting began, and when this was written: UTC, ISO 8601, by the replica's clock.
    """

    LIMIT: ClassVar[int] = 512 * 1024

    format: Literal[1]
    replica: str = Field(pattern=r"^[a-z0-9-]{1,120}$")
    host: str = Field(max_length=255)
    started: str = Field(max_length=40)
    when: str = Field(max_length=40)
    stages: tuple[StageCounts, ...] = Field(max_length=MAX_STAGES)
    days: tuple[DayCounts, ...] = Field(default=(), max_length=MAX_DAYS)

"""Trials for tests of the guard: records by the rules, and observations by the recorder that replicas have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Self

from registry.api import Registry
from registry.channels.record import Author, ChannelPosition, Record, promoted, trial_advanced, trial_started
from registry.channels.trial import StartTrial
from registry.evidence.policy import Policy, parse_policy
from registry.evidence.trial_report import ReportedTrial, TrialReport, report_of
from registry.serving.fleet import Heartbeat
from registry.store import layout
from registry.trials.merge import MergedStage, counted_in
from registry.trials.observations import ArmName, Observations, TrialStage
from registry.trials.receipts import OOD_LABEL, ArmAnswer, Receipt
from registry.trials.recorder import Counted, Recorder
from registry.trials.split import is_canary, unit_of
from registry.trials.stages import stage_of_record
from registry.usecases.observed import ChannelLook, SeenObject, by_the_stores_clock
from registry.versions.pointer import Pointer

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
AUTHOR = Author("a test")
ID = "a" * 32
RULES = """
    - {metric: accuracy, min: 0.94, severity: rollback}
    - {metric: accuracy, min: 0.95, severity: warn}
    - {metric: accuracy, min_ratio: 0.99, severity: rollback}
    - {metric: error_rate, max: 0.005, severity: rollback}
    - {metric: adapter_memory_mb, max: 25, severity: warn, missing: zero}
    - {metric: adapter_memory_mb, max: 28, severity: hold, missing: zero}
"""
PLANS = """
    default:
      - {percent: 10, hold: 1h, min_units: 100}
      - {percent: 50, hold: 1h, min_units: 100}
      - {percent: 100, bake: 7d}
"""


def policy(rules: str = RULES, plans: str = PLANS, more: str = "") -> Policy:
    """A policy that asks nothing of versions, and these rules of trials."""
    return parse_policy(policy_text(rules, plans, more).encode())


def policy_text(rules: str = RULES, plans: str = PLANS, more: str = "") -> str:
    """The same as a file."""
    guard = f"guard:\n  rules:{rules}" if rules.strip() else "guard: {rules: []}\n"
    return f"format: 1\nchannels: {{staging: {{}}, production: {{}}}}\n{more}trials:\n  plans:{plans}{guard}"


def pointer(version: str) -> Pointer:
    """To a version of no content."""
    return Pointer(version=version, manifest_sha256="0" * 64)


def started(percent: float = 10, *, kind: str = "split", plan: str | None = "default") -> list[Record]:
    """The records of a channel with v2.0.0 on trial beside v1.0.0, oldest first; in all tests the same keys see it."""
    first = promoted(ChannelPosition("leaves", "production", None), pointer("v1.0.0"), AUTHOR, None)
    trial = StartTrial("shadow" if kind == "shadow" else "split", percent, plan)
    begun = trial_started(at(first), pointer("v2.0.0"), AUTHOR, None, trial)
    assert begun.trial
    return [first, begun.model_copy(update={"trial": begun.trial.model_copy(update={"id": ID, "salt": ID})})]


def advanced(records: list[Record], percent: float) -> list[Record]:
    """The same with one more stage."""
    return [*records, trial_advanced(at(records[-1]), AUTHOR, percent)]


def at(head: Record) -> ChannelPosition:
    """Where a channel is after a record."""
    return ChannelPosition(head.model, head.channel, head)


@dataclass(frozen=True)
class Rates:
    """How often the canary and stable err, and how fast they are; of how many requests anything is counted, and for how
    many of these a label comes back."""

    error: float = 0.0
    wrong: float = 0.0
    flagged: float = 0.0
    missed: float = 0.0
    milliseconds: float = 50.0
    counted: float = 1.0
    labelled: float = 1.0


GOOD = Rates()


@dataclass
class Fleet:
    """Replicas that count by their recorders. Which request errs is no matter of chance: every so many do.

    Attributes:
        clocks: seconds by which each replica's clock is ahead.
        ages: of each replica's heartbeat; a fresh one where nothing is said.
    """

    names: tuple[str, ...] = ("a", "b", "c")
    clocks: Mapping[str, float] = field(default_factory=dict)
    ages: dict[str, float] = field(default_factory=dict)
    now: datetime = NOW
    recorders: dict[str, Recorder] = field(default_factory=dict)
    heartbeats: dict[str, Heartbeat] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        for name in self.names:
            self.recorders[name] = Recorder(name, f"host-{name}", lambda name=name: self._seconds(name))

    def ask(self, head: Record, keys: int, canary: Rates = GOOD, stable: Rates = GOOD, *, labels: bool = True) -> None:
        """So many keys ask once each, and labels of classes come back, at last ten of `_ood` of each arm."""
        stage = stage_of_record(head)
        assert stage
        asked = {"stable": 0, "canary": 0}
        for number in range(self.count, self.count + keys):
            key = f"key-{number}"
            recorder = self.recorders[self.names[number % len(self.names)]]
            unit = unit_of(stage.salt, key)
            if stage.kind == "shadow":
                pair = [_counted(rates, number) for rates in (stable, canary)]
                recorder.record_pair(stage, unit, pair[0], pair[1])
                if labels:
                    recorder.label(stage, _pair_receipt(stage, number, unit, stable, canary), "healthy")
                continue
            arm: ArmName = "canary" if stage.canary and is_canary(stage.salt, key, stage.weight) else "stable"
            rates, asked[arm] = canary if arm == "canary" else stable, asked[arm] + 1
            if not _every(rates.counted, asked[arm]):
                continue
            recorder.record(stage, arm, unit, _counted(rates, asked[arm]))
            if labels and _every(rates.labelled, asked[arm]):
                recorder.label(stage, _receipt(stage, arm, number, unit, _answer(rates, asked[arm])), "healthy")
        self.count += keys

    def ask_for_ood(self, head: Record, keys: int, canary: Rates = GOOD, stable: Rates = GOOD) -> None:
        """So many keys ask with images of something else, and are told so."""
        stage = stage_of_record(head)
        assert stage
        asked = {"stable": 0, "canary": 0}
        for number in range(self.count, self.count + keys):
            key, recorder = f"key-{number}", self.recorders[self.names[number % len(self.names)]]
            arm: ArmName = "canary" if is_canary(stage.salt, key, stage.weight) else "stable"
            rates, asked[arm] = canary if arm == "canary" else stable, asked[arm] + 1
            answer = ArmAnswer("healthy", flagged=not _every(rates.missed, asked[arm]))
            recorder.label(stage, _receipt(stage, arm, number, unit_of(stage.salt, key), answer), OOD_LABEL)
        self.count += keys

    def asked(self, records: list[Record], keys: int, canary: Rates = GOOD, stable: Rates = GOOD) -> Self:
        """Keys ask in all stages of a trial, in each over forty windows of ten seconds; labels come back."""
        for head in (record for record in records if record.running_trial):
            self.begin(head)
            for _ in range(40):
                self.ask(head, keys // 40, canary, stable)
                self.now += timedelta(seconds=10)
        return self

    def begin(self, head: Record) -> None:
        """All replicas follow a record."""
        stage = stage_of_record(head)
        assert stage
        for name in self.names:
            self.recorders[name].begin(stage)
            self.heartbeats[name] = heartbeat(name, head.generation)

    def observations(self, only: Iterable[str] | None = None) -> list[Observations]:
        """What they have written."""
        documents = [self.recorders[name].document() for name in (self.names if only is None else only)]
        return [
            document.model_copy(update={"when": (self.now + self._ahead(document.replica)).isoformat()})
            for document in documents
        ]

    def write(self, registry: Registry, channel: str = "production") -> None:
        """Every replica writes its heartbeat and its observations."""
        for each in self.heartbeats.values():
            registry.store.overwrite(layout.replica(registry.model, channel, each.id), each.to_bytes())
        for counted in self.observations():
            key = layout.observation(registry.model, channel, counted.replica)
            registry.store.overwrite(key, counted.to_bytes())

    def look(self, records: list[Record], *, ages: Mapping[int, float] | None = None) -> ChannelLook:
        """What the guard sees of it; `ages` are seconds since records were written, by generation."""
        for name in self.names:
            self.heartbeats.setdefault(name, heartbeat(name, records[-1].generation))
        written = {
            record.generation: self.now - timedelta(seconds=(ages or {}).get(record.generation, 7200.0))
            for record in records
        }
        return ChannelLook(
            records[-1], tuple(reversed(records[:-1])), self.now, written,
            tuple(SeenObject(name, self.ages.get(name, 1.0), each) for name, each in self.heartbeats.items()),
            tuple(SeenObject(each.replica, 1.0, by_the_stores_clock(each, self.now)) for each in self.observations()),
        )  # fmt: skip

    def _seconds(self, name: str) -> float:
        return (self.now + self._ahead(name)).timestamp()

    def _ahead(self, name: str) -> timedelta:
        return timedelta(seconds=self.clocks.get(name, 0.0))


def stages_of(records: list[Record], observations: Iterable[Observations]) -> list[MergedStage]:
    """What was counted in the stages of the only trial of these records."""
    told = list(observations)
    stages = [stage_of_record(record) for record in records if record.running_trial]
    return [counted_in(stage, told) for stage in stages if stage]


def trial_of(records: list[Record]) -> ReportedTrial:
    """The only trial of these records; it has ended if it does not run in the last one."""
    trial = [record for record in records if record.running_trial]
    found = ReportedTrial.of(trial, records[-1] if records[-1].running_trial is None else None)
    return replace(found, began=NOW.timestamp())


def reported(fleet: Fleet, records: list[Record], rules: Policy | None = None) -> TrialReport:
    """The report of the only trial of these records; its horizon is at 1,000 units."""
    return report_of(trial_of(records), stages_of(records, fleet.observations()), rules or declared())


@cache
def declared(units: int = 1000) -> Policy:
    """A policy whose horizon is at so many labelled units."""
    return parse_policy(
        f"format: 1\nchannels: {{staging: {{}}, production: {{}}}}\ntrials: {{horizon: {{units: {units}}}}}\n".encode()
    )


def heartbeat(name: str, generation: int, **more: object) -> Heartbeat:
    """The heartbeat of a replica that serves a generation."""
    said: dict[str, object] = {
        "format": 1, "id": name, "host": f"host-{name}", "pid": 1, "device": "cpu", "state": "serving",
        "version": "v1.0.0", "generation": generation, "newest": generation, "rollback_ready": True, "resident": (),
        "error": "", "when": NOW.isoformat(),
    }  # fmt: skip
    return Heartbeat.model_validate(said | more)


def _every(rate: float, number: int) -> bool:
    """Whether the n-th request is one of those with an event of this rate."""
    return int(number * rate) > int((number - 1) * rate)


def _counted(rates: Rates, number: int) -> Counted:
    seconds = rates.milliseconds / 1000
    failed = _every(rates.error, number)
    return Counted(
        "500" if failed else "answer", error=failed, flagged=_every(rates.flagged, number), label="healthy",
        compute_seconds=seconds, request_seconds=seconds,
    )  # fmt: skip


def _answer(rates: Rates, number: int) -> ArmAnswer:
    return ArmAnswer("blight" if _every(rates.wrong, number) else "healthy", flagged=_every(rates.flagged, number))


def _receipt(
    stage: TrialStage, arm: ArmName, number: int, unit: int, answer: ArmAnswer, shadow: ArmAnswer | None = None
) -> Receipt:
    return Receipt(
        generation=stage.generation, arm=arm, target="tomato", answer=answer, shadow=shadow,
        issued_at=int(NOW.timestamp()), nonce=number.to_bytes(8, "big"), unit=unit,
    )  # fmt: skip


def _pair_receipt(stage: TrialStage, number: int, unit: int, stable: Rates, canary: Rates) -> Receipt:
    # Other images than those that stable gets wrong, as both are rare.
    return _receipt(stage, "stable", number, unit, _answer(stable, number + 7), _answer(canary, number))

"""How well the operations of a model go, what each version costs, and what it answered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import median

from registry.api import Registry
from registry.channels.record import Record
from registry.dashboard import text
from registry.dashboard.versions import Place
from registry.errors import StoreDenied
from registry.evidence.results import Metric
from registry.evidence.stats import wilson
from registry.integrity.operations import Operation
from registry.names import CHANNELS
from registry.trials.counts import rate_of
from registry.trials.days import AnswersOfDay
from registry.trials.merge import MergedStage
from registry.usecases.incidents import counts_of

DAYS = 30
_STAGES = 16
"""Changes of a channel of which replicas keep the counts."""
_REFUSED, _INTERRUPTED = (3, 4, 5), 130
_DONE = (0, 8)
_MAX_LABELS = 10
COST_METRICS = ("latency_ms_p95", "adapter_memory_mb", "adapters_memory_mb_total")


@dataclass(frozen=True)
class CommandHealth:
    """How the runs of one command went.

    Attributes:
        refused: by a gate, because somebody else was first, or because there was no such version or nothing to go
            back to; `interrupted`: by Ctrl-C; neither is a failure.
        share: of those that were done, of done and failed ones, with Wilson's 95% interval; None without any, and for
            `create`, whose failures are not noted.
        seconds, slow_seconds: median and 95th percentile of those that were done; None without any.
        errors: how often each class of error ended a run.
    """

    command: str
    done: int
    refused: int
    failed: int
    interrupted: int
    share: float | None
    low: float
    high: float
    seconds: float | None
    slow_seconds: float | None
    errors: Mapping[str, int]

    @property
    def runs(self) -> int:
        """All of them."""
        return self.done + self.refused + self.failed + self.interrupted


@dataclass(frozen=True)
class DayOfChanges:
    """How many changes of a kind a channel's log has on one day."""

    day: date
    channel: str
    action: str
    count: int


@dataclass(frozen=True)
class CostOfVersion:
    """One measured number of a version; the largest of its targets where it has no total."""

    version: str
    metric: Metric


@dataclass(frozen=True)
class StageTraffic:
    """What replicas have counted of one version in one stage, which began on `began`.

    Attributes:
        flagged, asked: units whose first answer was flagged as OOD, of all.
        outcomes: requests by outcome.
    """

    channel: str
    generation: int
    began: datetime | None
    version: str
    arm: str
    flagged: int
    asked: int
    outcomes: Mapping[str, int]

    @property
    def share(self) -> float | None:
        """The OOD rate."""
        return self.flagged / self.asked if self.asked else None


@dataclass(frozen=True)
class DayOfAnswers:
    """What a version answered on one day through a channel."""

    channel: str
    answered: AnswersOfDay


@dataclass(frozen=True)
class HealthView:
    """Everything on the page but what is measured of versions. `operations` is None where they may not be read."""

    operations: tuple[CommandHealth, ...] | None
    changes: tuple[DayOfChanges, ...]
    traffic: tuple[StageTraffic, ...]
    days: tuple[DayOfAnswers, ...]


def read_health(registry: Registry, last: int = DAYS) -> HealthView:
    """How well it went in the last days.

    Raises:
        BadManifest, BrokenChain: see `Registry.history`.
        StoreUnreachable, StoreDenied: the store does not answer.
    """
    since = datetime.now(UTC) - timedelta(days=last)
    records = {channel: registry.history(channel, _STAGES * 10) for channel in CHANNELS}
    counts = {channel: counts_of(registry.wiring, channel, found[:_STAGES]) for channel, found in records.items()}
    stages = [pair for found in counts.values() for pair in found.stages]
    days = [DayOfAnswers(channel, day) for channel, found in counts.items() for day in found.days]
    every = [record for found in records.values() for record in found]
    changes = tuple(days_of(every, since))
    return HealthView(_operations(registry, since), changes, tuple(traffic_of(stages)), tuple(days))


def health_of(operations: Iterable[Operation]) -> list[CommandHealth]:
    """How the runs of each command went, by name."""
    groups: dict[str, list[Operation]] = defaultdict(list)
    for one in operations:
        groups[text.plain(one.command, 40)].append(one)
    return [_command(name, groups[name]) for name in sorted(groups)]


def days_of(records: Iterable[Record], since: datetime) -> list[DayOfChanges]:
    """The changes of each day by channel and action, oldest first."""
    found: Counter[tuple[date, str, str]] = Counter()
    for record in records:
        at = text.moment(record.when)
        if at and at >= since:
            found[at.date(), record.channel, record.action] += 1
    return [DayOfChanges(*key, count) for key, count in sorted(found.items())]


def costs_of(measured: Mapping[str, Mapping[Place, Metric]], name: str) -> list[CostOfVersion]:
    """One metric of each version, in their order; of one that is measured by target, the largest."""
    found: list[CostOfVersion] = []
    for version, metrics in measured.items():
        ours = [
            metric for (metric_name, _), metric in metrics.items() if metric_name == name and metric.value is not None
        ]
        total = next((metric for metric in ours if metric.target is None), None)
        if ours:
            found.append(CostOfVersion(version, total or max(ours, key=lambda one: one.value or 0.0)))
    return found


def traffic_of(stages: Iterable[tuple[Record, MergedStage]]) -> Iterator[StageTraffic]:
    """What each version of each stage was asked, and flagged."""
    for record, stage in stages:
        for arm, counted in stage.arms.items():
            rate, outcomes = rate_of([counted], "flagged"), Counter[str]()
            for counts in counted.counters.values():
                outcomes.update(counts)
            yield StageTraffic(
                record.channel, record.generation, text.moment(record.when), counted.version, arm, rate.x, rate.n,
                dict(outcomes.most_common(_MAX_LABELS)),
            )  # fmt: skip


def _operations(registry: Registry, since: datetime) -> tuple[CommandHealth, ...] | None:
    try:
        return tuple(health_of(registry.operations(since)))
    except StoreDenied:
        return None


def _command(name: str, runs: Sequence[Operation]) -> CommandHealth:
    done = [one for one in runs if one.exit_code in _DONE]
    refused = sum(one.exit_code in _REFUSED for one in runs)
    interrupted = sum(one.exit_code == _INTERRUPTED for one in runs)
    failed = len(runs) - len(done) - refused - interrupted
    is_rated = (done or failed) and name != "create"
    ends, counts = (
        wilson(len(done), len(done) + failed),
        Counter(text.plain(one.error, 60) for one in runs if one.error),
    )
    times = sorted(one.seconds for one in done)
    return CommandHealth(
        name, len(done), refused, failed, interrupted, len(done) / (len(done) + failed) if is_rated else None,
        ends.low, ends.high, median(times) if times else None,
        times[min(len(times) - 1, int(0.95 * len(times)))] if times else None, dict(counts.most_common(_MAX_LABELS)),
    )  # fmt: skip

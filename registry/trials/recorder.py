"""What a replica counts for its observations. Request threads call it; each call takes microseconds.

Latencies and units of the present 10 s are kept until these are over, of older ones only their quantiles.
"""

from __future__ import annotations

import random
import re
import threading
import time
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from registry.formats import canonical
from registry.formats.document import DocumentPart
from registry.machine import clock
from registry.trials.days import DayTallies
from registry.trials.observations import (
    BASES,
    FIRST,
    MAX_COUNTERS,
    MAX_NUMBER,
    MAX_PAIRS,
    MAX_STAGES,
    MAX_WINDOWS,
    WINDOW_SECONDS,
    ArmCounts,
    ArmName,
    Failure,
    Observations,
    StageCounts,
    TrialStage,
    Window,
)
from registry.trials.quantiles import quantile
from registry.trials.receipts import OOD_LABEL, ArmAnswer, Receipt
from registry.trials.units import GrowingUnits

MAX_LABEL_AGE = 30 * 86_400
"""Seconds after an answer for which its label counts."""
_MAX_RECEIPTS = 50_000
"""Receipts that are remembered, so that only the first label of each counts."""
_MAX_TIMES = 2_048
"""Times of a window that are kept; of more, a random sample of so many."""
_PAIR_LABEL = 40
_MAX_SECONDS = 100_000.0
_NAME = re.compile(r"[a-z0-9_.-]{1,40}")
_OTHER = "other"
_ROOM = 2_048
"""Bytes of a document beside its stages and days, at most."""

LabelResult = Literal["taken", "repeated", "contradictory", "late", "left_out"]
"""What became of a label. `repeated`, `contradictory`: the receipt had this label, or another one, before. `late`: the
answer is too old, or of a stage before the last 16 that are counted here. `left_out`: the answer does not count, since
the client chose its version."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What one request did.

    Attributes:
        outcome: of the prediction, or the status code of an error: the name of a counter.
        error: whether it counts as the version's error; see `registry.trials.observations.EVENTS`.
        label: what was answered, None for none.
        compute_seconds: its share of the pass. `request_seconds`: of the whole request.
    """

    outcome: str
    error: bool = False
    flagged: bool = False
    label: str | None = None
    compute_seconds: float | None = None
    request_seconds: float | None = None


class Recorder:
    """The counts of one replica, of the last 16 stages. Any thread may call it.

    The first label of a receipt counts. Each replica remembers that of the last 50,000 receipts by itself: if two
    labels of one receipt reach two replicas, both count.
    """

    def __init__(self, replica: str, host: str, now: Callable[[], float] = time.time) -> None:
        self._replica, self._host, self._now = replica, host, now
        self._started = clock.timestamp()
        self._stages: OrderedDict[TrialStage, _StageTally] = OrderedDict()
        self._days = DayTallies()
        self._labels: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, stage: TrialStage) -> None:
        """A stage has begun: it is in the observations from now on, also while nothing happens in it."""
        with self._lock:
            self._tally(stage)

    def stage_of(self, generation: int) -> TrialStage | None:
        """The stage of a generation, if it is counted here."""
        with self._lock:
            return next((stage for stage in self._stages if stage.generation == generation), None)

    def record(self, stage: TrialStage, arm: ArmName, unit: int, counted: Counted) -> None:
        """Count a request that an arm answered, or failed at."""
        with self._lock:
            self._add(stage, arm, unit, counted, self._now())

    def record_pair(self, stage: TrialStage, unit: int, stable: Counted, canary: Counted) -> None:
        """Count a request of a shadow trial that both versions computed."""
        with self._lock:
            tally, now = self._tally(stage), self._now()
            self._add(stage, "stable", unit, stable, now)
            self._add(stage, "canary", unit, canary, now)
            pair = f"{_shown(stable.label)} -> {_shown(canary.label)}"
            tally.pairs[pair if _has_room(tally.pairs, pair, MAX_PAIRS) else _OTHER] += 1

    def count(self, stage: TrialStage, arm: ArmName, name: str) -> None:
        """Count what no statistics use, such as `shed` or `forced`: a short name in lower case."""
        with self._lock:
            _count(self._tally(stage).arms[arm].counters, name)

    def failed(self, stage: TrialStage, arm: ArmName, kind: Failure) -> None:
        """Count a failure of a version that needs no statistics."""
        with self._lock:
            self._tally(stage).arms[arm].failures[kind] += 1

    def memory(self, stage: TrialStage, arm: ArmName, megabytes: float) -> None:
        """Note how much memory a version's largest adapter takes."""
        if 0 <= megabytes < MAX_NUMBER:
            with self._lock:
                self._tally(stage).arms[arm].memory_mb = megabytes

    def label(self, stage: TrialStage, receipt: Receipt, label: str) -> LabelResult:
        """Count a true label; `_ood` says that the image shows none of the classes.

        Args:
            stage: that of the receipt's generation; see `stage_of`, or read its record.
        """
        with self._lock:
            if receipt.arm == "named":
                return "left_out"
            if self._now() - receipt.issued_at > MAX_LABEL_AGE or self._is_left(stage):
                return "late"
            if (before := self._labels.get(receipt.nonce)) is not None:
                return "repeated" if before == label else "contradictory"
            self._labels[receipt.nonce] = label
            if len(self._labels) > _MAX_RECEIPTS:
                self._labels.popitem(last=False)
            arms = self._tally(stage).arms
            arms[receipt.arm].add_label(receipt.unit, receipt.answer, label)
            if receipt.shadow:
                arms["canary"].add_label(receipt.unit, receipt.shadow, label)
            return "taken"

    def document(self) -> Observations:
        """All counts as they are now. If they are more than a document holds, the oldest stages are left out."""
        with self._lock:
            now = self._now()
            copies = [tally.copy(stage, now) for stage, tally in self._stages.items()]
            days = tuple(self._days.copy())
        counts = [copy() for copy in copies]
        return Observations(
            format=1, replica=self._replica, host=self._host[:255], started=self._started, when=clock.timestamp(),
            stages=tuple(_newest_that_fit(sorted(counts, key=lambda one: one.generation), _size(days))), days=days,
        )  # fmt: skip

    def _add(self, stage: TrialStage, arm: ArmName, unit: int, counted: Counted, now: float) -> None:
        self._tally(stage).arms[arm].add(unit, counted, now)
        if not counted.error and not counted.outcome.isdigit():  # a status code, such as 429, is no answer
            self._days.add(stage.version(arm), counted.label, now, is_flagged=counted.flagged)

    def _is_left(self, stage: TrialStage) -> bool:
        """Whether a stage is older than the last ones that are kept."""
        return stage not in self._stages and len(self._stages) >= MAX_STAGES and stage < min(self._stages)

    def _tally(self, stage: TrialStage) -> _StageTally:
        tally = self._stages.get(stage)
        if tally is None:
            tally = self._stages[stage] = _StageTally()
            while len(self._stages) > MAX_STAGES:
                del self._stages[min(self._stages)]
        return tally


class _StageTally:
    """The counts of one stage."""

    def __init__(self) -> None:
        self.arms: dict[ArmName, _ArmTally] = defaultdict(_ArmTally)
        self.pairs: Counter[str] = Counter()

    def copy(self, stage: TrialStage, now: float) -> Callable[[], StageCounts]:
        """What makes the document's part of it, without this tally."""
        names: tuple[ArmName, ...] = ("stable", "canary") if stage.canary else ("stable",)
        arms = {arm: self.arms[arm].copy(stage.version(arm), now) for arm in names}
        pairs = dict(self.pairs)
        return lambda: StageCounts(
            generation=stage.generation, trial=stage.trial, kind=stage.kind, weight=stage.weight,
            arms={arm: copied() for arm, copied in arms.items()}, pairs=pairs,
        )  # fmt: skip


class _ArmTally:
    """The counts of one version in one stage."""

    def __init__(self) -> None:
        self.units: dict[str, GrowingUnits] = defaultdict(GrowingUnits)
        self.counters: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.memory_mb: float | None = None
        self._windows: deque[Window] = deque(maxlen=MAX_WINDOWS)
        self._window: _OpenWindow | None = None

    def add(self, unit: int, counted: Counted, now: float) -> None:
        is_first = self.units["asked"].add(unit)
        if counted.error:
            self._happened("error", unit, is_first)
        if counted.flagged:
            self._happened("flagged", unit, is_first)
        _count(self.counters, counted.outcome)
        self._open_window(now).add(unit, counted)

    def add_label(self, unit: int, answer: ArmAnswer, label: str) -> None:
        if label == OOD_LABEL:
            happened = {"missed": not answer.flagged}
        else:
            happened = {"wrong": not answer.says(label), "alarmed": answer.flagged}
        is_first = self.units["ood" if label == OOD_LABEL else "labelled"].add(unit)
        for event, did in happened.items():
            if did:
                self._happened(event, unit, is_first)

    def copy(self, version: str, now: float) -> Callable[[], ArmCounts]:
        number = int(now // WINDOW_SECONDS)
        self._close_window(number)
        units = {event: growing.frozen() for event, growing in self.units.items()}
        optional = {} if self.memory_mb is None else {"memory_mb": self.memory_mb}
        counters, failures = dict(self.counters), dict(self.failures)
        windows = tuple(window for window in self._windows if window.at > number - MAX_WINDOWS)
        return lambda: ArmCounts(
            version=version, units=units, counters=counters, windows=windows, failures=failures, **optional
        )

    def _happened(self, event: str, unit: int, is_first: bool) -> None:
        self.units[event].add(unit)
        if is_first:
            self.units[_FIRSTS[event]].add(unit)

    def _open_window(self, now: float) -> _OpenWindow:
        number = int(now // WINDOW_SECONDS)
        self._close_window(number)
        if self._window is None:
            self._window = _OpenWindow(number)
        return self._window

    def _close_window(self, number: int) -> None:
        """Keep the open window's figures if it is over."""
        if self._window and self._window.at != number:
            self._windows.append(self._window.closed())
            self._window = None


class _OpenWindow:
    """The present ten seconds of an arm."""

    def __init__(self, at: int) -> None:
        self.at, self.n = at, 0
        self.asked: set[int] = set()
        self.errors = 0
        self.compute, self.request = _Times(), _Times()

    def add(self, unit: int, counted: Counted) -> None:
        self.n += 1
        if unit in self.asked:  # keys stay in their arm: one that asks often would be the arm's latency
            return
        self.asked.add(unit)
        self.errors += counted.error
        self.compute.add(counted.compute_seconds)
        self.request.add(counted.request_seconds)

    def closed(self) -> Window:
        times = dict([*self.compute.quantiles("compute"), *self.request.quantiles("request")])
        return Window(at=self.at, n=self.n, asked=len(self.asked), errors=self.errors, **times)


class _Times:
    """Seconds, or of many a random sample in which each has the same chance to be: reservoir sampling."""

    def __init__(self) -> None:
        self._kept = array("d")
        self._seen = 0

    def add(self, seconds: float | None) -> None:
        if seconds is None or not 0 <= seconds < _MAX_SECONDS:  # nor NaN
            return
        self._seen += 1
        if len(self._kept) < _MAX_TIMES:
            self._kept.append(seconds)
        elif (place := int(random.random() * self._seen)) < _MAX_TIMES:  # noqa: S311  a sample, no secret
            self._kept[place] = seconds

    def quantiles(self, name: str) -> Iterator[tuple[str, float]]:
        """In milliseconds, by the name of the field."""
        if self._kept:
            ordered = sorted(self._kept)
            for percent in (50, 95):
                yield f"{name}_p{percent}", round(1000 * quantile(ordered, percent / 100), 3)


_FIRSTS = {event: FIRST + event for event in BASES}


def _count(counters: Counter[str], name: str) -> None:
    """Count one more. What is no name of a counter, and those beyond the most that there may be, are one counter."""
    counters[name if _has_room(counters, name, MAX_COUNTERS) and _NAME.fullmatch(name) else _OTHER] += 1


def _has_room(counts: Counter[str], name: str, most: int) -> bool:
    """Whether a name may be counted: the last one is left for all others together."""
    return name in counts or len(counts) < most - 1


def _shown(label: str | None) -> str:
    """A label as it stands in a pair: short, and on one line."""
    text = "-" if label is None else label[:_PAIR_LABEL]
    return text if text.isprintable() else _OTHER


def _newest_that_fit(stages: list[StageCounts], others: int) -> list[StageCounts]:
    """The newest stages whose bytes fit into a document beside `others`; a single one always does."""
    if len(stages) < 2:
        return stages
    left, kept = Observations.LIMIT - _ROOM - others, list[StageCounts]()
    for stage in reversed(stages):
        left -= _size((stage,))
        if kept and left < 0:
            break
        kept.insert(0, stage)
    return kept


def _size(parts: Iterable[DocumentPart]) -> int:
    """Bytes of parts in a document."""
    return sum(len(canonical.encode(part.model_dump(mode="json", exclude_unset=True))) + 1 for part in parts)

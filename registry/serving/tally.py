"""What a replica counts about its own work: batches, answers, requests, swaps. It needs no package beside Python.

`registry.serving.metrics` shows it to Prometheus. Counts are kept by version from when that is in memory until it
leaves memory, so that they take bounded memory, and so does what is shown.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from registry.serving.observer import SettledRow

STABLE, CANARY, NAMED = ARMS = ("stable", "canary", "named")
"""The arms of requests, see `registry.serving.routing.Arm`."""
OUTCOMES = ("answer", "review", "router_uncertain", "no_adapter", "corrupt_image")
"""The outcomes that are told apart; those of another flavor are `other`."""
OTHER = "other"
SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.22, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0,
    2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the buckets of durations: the usual ones, the bounds on latencies of the default policy (150 and
200 ms), 220 ms, and the default deadline, 2 s."""
ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 128, 256, 512, 1024)
"""Upper bounds of the buckets of rows in a batch; 1024 is the largest `--max-batch`."""

SwapResult = Literal["ok", "failed"]
"""`ok`: a record is served from now on, the first one too. `failed`: a version was not loaded; each try counts."""


class Distribution:
    """How many values are at most each of some bounds, and the sum of all."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.sum = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Each bound, infinity at last, with how many values are at most so large."""
        total = 0
        for bound, count in zip((*self.bounds, float("inf")), self._counts, strict=True):
            total += count
            yield bound, total


@dataclass
class VersionTally:
    """What is counted of one version; of no version where none answered.

    Attributes:
        requests: answers over HTTP by arm and status code.
        durations: seconds of them by arm.
        predictions: images by arm, target and outcome.
        feedback: true labels of its answers by arm and what became of them.
    """

    targets: frozenset[str] = frozenset()
    requests: Counter[tuple[str, int]] = field(default_factory=lambda: Counter({(STABLE, 200): 0}))
    durations: dict[str, Distribution] = field(default_factory=lambda: {STABLE: Distribution(SECONDS)})
    predictions: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    feedback: Counter[tuple[str, str]] = field(default_factory=lambda: Counter({(STABLE, "taken"): 0}))

    @classmethod
    def of(cls, targets: Iterable[str]) -> VersionTally:
        """All zero, for a version with these targets."""
        names = frozenset(targets)
        return cls(
            targets=names,
            predictions=Counter(
                {(STABLE, target, outcome): 0 for target in (*sorted(names), "") for outcome in OUTCOMES}
            ),
        )


class Tally:
    """The counts of one replica. Any thread may call it; each call takes microseconds."""

    def __init__(self) -> None:
        self.versions: dict[str, VersionTally] = {"": VersionTally()}
        self.swaps: Counter[SwapResult] = Counter({"ok": 0, "failed": 0})
        self.queued, self.computed = Distribution(SECONDS), Distribution(SECONDS)
        self.batches = Distribution(ROWS)
        self.shed = 0
        self._lock = threading.Lock()

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Nothing is counted within, so that all that is read fits together. Keep it short: others wait."""
        with self._lock:
            yield

    # --- batches: see `registry.serving.observer` --------------------------------------------------------------------

    def batch_taken(self, waited: Sequence[float]) -> None:
        """Count a batch, and how long its rows waited."""
        with self._lock:
            self.batches.add(len(waited))
            for seconds in waited:
                self.queued.add(seconds)

    def batch_computed(self, seconds: float) -> None:
        """Count one pass."""
        with self._lock:
            self.computed.add(seconds)

    def settled(self, rows: Sequence[SettledRow]) -> None:
        """Count answers, and what a canary was not asked. Those of a version that has left memory are not counted."""
        with self._lock:
            for row in rows:
                self.shed += row.was_shed
                answer = row.outcome.answer
                if answer is not None and (counts := self.versions.get(answer.version)):
                    target = getattr(answer, "target", None)
                    outcome = answer.outcome if answer.outcome in OUTCOMES else OTHER
                    counts.predictions[row.route.arm, target if target in counts.targets else "", outcome] += 1

    # --- requests, swaps, versions -----------------------------------------------------------------------------------

    def request_answered(self, version: str, code: int, seconds: float, arm: str = STABLE) -> None:
        """Count an answer over HTTP; one by no version, or none that is in memory, counts for none."""
        arm = arm if arm in ARMS else STABLE
        with self._lock:
            counts = self.versions.get(version) or self.versions[""]
            counts.requests[arm, code] += 1
            counts.durations.setdefault(arm, Distribution(SECONDS)).add(seconds)

    def swapped(self) -> None:
        """Another record is served."""
        with self._lock:
            self.swaps["ok"] += 1

    def label_came(self, version: str, arm: str, result: str) -> None:
        """Count a true label, and what became of it; one of a version that is not in memory counts for none."""
        with self._lock:
            counts = self.versions.get(version) or self.versions[""]
            counts.feedback[arm if arm in ARMS else STABLE, result] += 1

    def load_failed(self) -> None:
        """A try to load a version failed."""
        with self._lock:
            self.swaps["failed"] += 1

    def version_came(self, version: str, targets: Iterable[str]) -> None:
        """A version is in memory: it has counts from now on."""
        with self._lock:
            self.versions.setdefault(version, VersionTally.of(targets))

    def version_left(self, version: str) -> None:
        """A version left memory: so do its counts."""
        with self._lock:
            self.versions.pop(version, None)

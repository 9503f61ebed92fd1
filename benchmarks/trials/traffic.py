"""Simulated traffic of one trial: keys, requests, errors, labels and latencies, counted as replicas count them.

Nothing of the trial is simulated: keys are split, units counted, documents merged by `registry.trials`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.trials.rivals import ArmTotals
from registry.trials.merge import MergedStage, counted_in
from registry.trials.observations import WINDOW_SECONDS, ArmName, TrialStage, Window
from registry.trials.quantiles import quantile
from registry.trials.receipts import OOD_LABEL, ArmAnswer, Receipt
from registry.trials.recorder import Counted, Recorder
from registry.trials.split import is_canary, unit_of

REPLICAS = ("a", "b", "c")
LOOKS = 20
"""How often the trial is judged; as often it would be by events that matter."""
PLAN = (10.0, 50.0)
"""Percent of the two stages; each lasts half of the looks."""
_LATE = 4
"""Looks after an answer until its label comes back, at most."""
_WINDOWS_A_LOOK = 6
_REQUESTS_A_WINDOW = 60
_BROKEN_ASK = 20
_SLOW = 3.0
_ERROR = Counted("500", error=True)


@dataclass(frozen=True)
class Truth:
    """What a version is in truth: shares of its requests."""

    error: float = 0.005
    wrong: float = 0.06
    missed: float = 0.1
    alarmed: float = 0.2
    milliseconds: float = 100.0


@dataclass(frozen=True)
class SimulatedTraffic:
    """Who asks.

    Attributes:
        zipf: how unequal keys are: the k-th asks in proportion to k^-zipf.
        broken: keys whose requests always fail, whatever the version, and which ask twenty times as often as the mean.
        lasts, own: of the load: its correlation from window to window; and of each arm's own deviation from it, the
            spread in units of the logarithm. Both last.
        slow: keys of the canary whose requests always take three times as long, whatever the version.
        labels_of_canary: by how much more often a label comes back for the canary.
        label_spread: of keys: how unequally they send labels back; 0 for all alike.
    """

    name: str
    keys: int = 2_000
    requests: int = 6_000
    zipf: float = 0.0
    broken: int = 0
    lasts: float = 0.0
    own: float = 0.0
    slow: int = 0
    labels_of_canary: float = 1.0
    label_spread: float = 0.0
    labelled: float = 0.3
    out_of_distribution: float = 0.15


NULLS = (
    SimulatedTraffic("uniform traffic"),
    SimulatedTraffic("Zipf keys", zipf=1.1),
    SimulatedTraffic("a few broken clients", broken=3),
    SimulatedTraffic("autocorrelated latency", lasts=0.97, own=0.08),
    SimulatedTraffic("a slow client", slow=1),
    SimulatedTraffic("labels that come back unevenly", labels_of_canary=1.5, label_spread=1.5),
)
"""Both versions are equal, and every rate is exactly at its bound: what is worse is to be rolled back."""


@dataclass(frozen=True)
class Look:
    """What is known at one look.

    Attributes:
        began, now: seconds since 1970 of the trial's beginning and of the look.
        errors: requests and errors of the present stage, for the rivals.
    """

    stages: tuple[MergedStage, ...]
    began: float
    now: float
    errors: ArmTotals


def looks(traffic: SimulatedTraffic, stable: Truth, canary: Truth, seed: int) -> Iterator[Look]:
    """One trial, as it is seen at each look."""
    trial = _Trial(traffic, {"stable": stable, "canary": canary}, np.random.default_rng(seed))
    for number in range(LOOKS):
        yield trial.look(number)


@dataclass
class _Trial:
    """One trial under way."""

    traffic: SimulatedTraffic
    truths: dict[ArmName, Truth]
    draw: np.random.Generator
    now: float = 1_800_000_000.0
    totals: dict[ArmName, list[int]] = field(default_factory=lambda: {"canary": [0, 0], "stable": [0, 0]})
    due: dict[int, list[tuple[int, TrialStage, Receipt, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = self.now
        salt = self.draw.bytes(16).hex()
        names = [str(number) for number in range(self.traffic.keys)]
        self.stages = [
            TrialStage(2 + number, "v1.0.0", "v2.0.0", salt, "split", percent) for number, percent in enumerate(PLAN)
        ]
        self.units = [unit_of(salt, name) for name in names]
        self.arms = [[is_canary(salt, name, percent) for name in names] for percent in PLAN]
        shares = np.arange(1, self.traffic.keys + 1.0) ** -self.traffic.zipf
        self.shares = self.draw.permutation(shares / shares.sum())
        if self.traffic.broken:
            self.shares[: self.traffic.broken] = _BROKEN_ASK / self.traffic.keys
            self.shares /= self.shares.sum()
        self.labels = np.exp(self.draw.normal(0, self.traffic.label_spread, self.traffic.keys))
        self.recorders = [Recorder(name, "host", lambda: self.now) for name in REPLICAS]
        self.windows = _Latencies(self.traffic, self.truths, self.draw)

    def look(self, number: int) -> Look:
        place = number * len(PLAN) // LOOKS
        stage = self.stages[place]
        if number and place != (number - 1) * len(PLAN) // LOOKS:
            self.totals = {"canary": [0, 0], "stable": [0, 0]}
        count = self.traffic.requests // LOOKS
        chosen = self.draw.choice(self.traffic.keys, count, p=self.shares)
        chances = self.draw.random((count, 6))
        for key, chance in zip(chosen.tolist(), chances.tolist(), strict=True):
            self._request(number, stage, "canary" if self.arms[place][key] else "stable", key, chance)
        for replica, of_stage, receipt, label in self.due.pop(number, []):
            self.recorders[replica].label(of_stage, receipt, label)
        self.windows.go_on(int(self.now // WINDOW_SECONDS), stage)
        self.now += _WINDOWS_A_LOOK * WINDOW_SECONDS
        found = [recorder.document() for recorder in self.recorders]
        stages = tuple(self.windows.added_to(counted_in(one, found)) for one in self.stages[: place + 1])
        return Look(stages, self.began, self.now, ArmTotals(*self.totals["canary"], *self.totals["stable"]))

    def _request(self, number: int, stage: TrialStage, arm: ArmName, key: int, chance: list[float]) -> None:
        """One request and, maybe, its label later; `chance` holds its random numbers."""
        truth, replica = self.truths[arm], int(chance[0] * len(REPLICAS))
        error = key < self.traffic.broken or chance[1] < truth.error
        self.totals[arm][0] += error
        self.totals[arm][1] += 1
        if error:
            self.recorders[replica].record(stage, arm, self.units[key], _ERROR)
            return
        is_ood = chance[2] < self.traffic.out_of_distribution
        flagged = (chance[3] >= truth.missed) if is_ood else (chance[3] < truth.alarmed)
        label = "b" if chance[4] < truth.wrong else "a"
        self.recorders[replica].record(stage, arm, self.units[key], Counted("answer", flagged=flagged, label=label))
        more = self.traffic.labels_of_canary if arm == "canary" else 1.0
        share = self.traffic.labelled * self.labels[key] * more
        if chance[5] < share:
            receipt = Receipt(stage.generation, arm, self.units[key], ArmAnswer(label, flagged), int(self.now))
            when = number + int(chance[5] / share * (_LATE + 1))
            self.due.setdefault(when, []).append((replica, stage, receipt, OOD_LABEL if is_ood else "a"))


class _Latencies:
    """Windows of each replica: load that all feel, deviations that an arm has for itself for a while, and requests."""

    def __init__(self, traffic: SimulatedTraffic, truths: dict[ArmName, Truth], draw: np.random.Generator) -> None:
        self._traffic, self._truths, self._draw = traffic, truths, draw
        self._load = {replica: 0.0 for replica in REPLICAS}
        self._own = {(replica, arm): 0.0 for replica in REPLICAS for arm in truths}
        self._windows: dict[tuple[int, ArmName], dict[str, tuple[Window, ...]]] = {}

    def go_on(self, at: int, stage: TrialStage) -> None:
        """The windows until the next look."""
        for number in range(_WINDOWS_A_LOOK):
            for replica in REPLICAS:
                self._load[replica] = self._next(self._load[replica], 0.4)
                for arm in self._truths:
                    self._own[replica, arm] = self._next(self._own[replica, arm], self._traffic.own)
                    every = self._windows.setdefault((stage.generation, arm), {})
                    every[replica] = (*every.get(replica, ()), self._window(at + number, replica, arm, stage.weight))

    def added_to(self, stage: MergedStage) -> MergedStage:
        """A stage with its windows."""
        arms = {
            arm: replace(one, windows=self._windows.get((stage.stage.generation, arm), {}))
            for arm, one in stage.arms.items()
        }
        return MergedStage(stage.stage, arms, stage.replicas)

    def _next(self, before: float, spread: float) -> float:
        lasts = self._traffic.lasts
        return lasts * before + float(self._draw.normal(0, spread * (1 - lasts**2) ** 0.5)) if spread else 0.0

    def _window(self, at: int, replica: str, arm: ArmName, weight: float) -> Window:
        share = weight / 100 if arm == "canary" else 1 - weight / 100
        n = int(self._draw.poisson(_REQUESTS_A_WINDOW * share))
        scale = self._truths[arm].milliseconds * np.exp(self._load[replica] + self._own[replica, arm])
        every = scale * self._draw.lognormal(0, 0.25, n)
        if arm == "canary":
            every[: self._traffic.slow] *= _SLOW
        times = np.sort(every).tolist()
        if not times:
            return Window(at=at, n=0)
        p50, p95 = quantile(times, 0.5), quantile(times, 0.95)
        return Window(at=at, n=n, asked=n, compute_p50=p50, compute_p95=p95, request_p50=p50, request_p95=p95)

"""What a shadow trial costs stable: images a second at saturation, and the latency of its answers at half load.

One replica, in a process of its own, is asked over HTTP with no trial and with a shadow trial of all images, in turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.request import urlopen

from benchmarks.comparison import Budget, say
from benchmarks.serving.client import LoadJob
from benchmarks.serving.load import SLOWEST, LoadResult, run_load, wait_for
from benchmarks.serving.outcome import Found
from benchmarks.serving.stage import CHANNEL, MeasuredReplica, ModelOnStage, on_stage, replica
from benchmarks.trials.effort import TrialEffort
from registry.channels.record import Author, ChannelPosition, aborted, trial_started
from registry.channels.trial import StartTrial
from registry.names import VersionName

SIZE = "tiny"
STABLE, CANARY = "v1.0.0", "v1.1.0"
MOST = 1.2
"""Of the p99 at half load, with a trial / without."""
HALF = 0.5
CLIENTS = 16
ROUNDS = 21
SATURATED_SECONDS, HALF_SECONDS, QUICK_SECONDS, BETWEEN_SECONDS = 2.0, 4.0, 1.0, 0.5
"""Short, so that other work on the machine, which comes and goes, meets both sides of a round."""
_AUTHOR = Author("a benchmark")
_TIMEOUT, _LOOK = 60.0, 0.05

Side = Literal["none", "shadow"]


def shadow_cost(effort: TrialEffort) -> Found:
    """Rounds of both, another one first each time."""
    with on_stage() as stage:
        model = stage.model(SIZE)
        for version in (STABLE, CANARY):
            model.create(version)
        model.serve(STABLE)
        with replica(model, "shadow") as server:
            turns = _ShadowTurns(model, server, QUICK_SECONDS if effort.quick else 0.0)
            turns.warm_up()
            rounds = [turns.round(number) for number in range(2 if effort.quick else ROUNDS)]
    return _found(rounds)


@dataclass(frozen=True)
class _SideLoad:
    """One load on one side.

    Attributes:
        shed: the share of the images that the canary was not asked for want of time.
        processor_ms: of the replica for each answer.
    """

    load: LoadResult
    shed: float
    processor_ms: float


@dataclass(frozen=True)
class _ShadowRound:
    """Both sides at saturation, and at half of what the side without a trial answered."""

    saturated: dict[Side, _SideLoad]
    half: dict[Side, _SideLoad]

    @property
    def rate(self) -> float:
        """Images a second at saturation, with a trial / without."""
        return self.saturated["shadow"].load.rate() / self.saturated["none"].load.rate()

    @property
    def p99(self) -> float:
        """At half load, with a trial / without."""
        return self.half["shadow"].load.percentile(0.99) / self.half["none"].load.percentile(0.99)


@dataclass(frozen=True)
class _ShadowTurns:
    """One replica, now with a trial and now without; `seconds` of each load, 0 for the usual ones."""

    model: ModelOnStage
    server: MeasuredReplica
    seconds: float

    def warm_up(self) -> None:
        """Let both sides answer, uncounted."""
        for side in ("shadow", "none"):
            self._go(side)

    def round(self, number: int) -> _ShadowRound:
        """Both sides at saturation, then at half load, the last one first."""
        say(f"shadow trial and none, round {number + 1}")
        sides: tuple[Side, Side] = ("none", "shadow") if number % 2 == 0 else ("shadow", "none")
        saturated, half = dict[Side, _SideLoad](), dict[Side, _SideLoad]()
        for side in sides:
            self._go(side)
            saturated[side] = self._load(clients=CLIENTS, seconds=self.seconds or SATURATED_SECONDS)
        rate = max(SLOWEST, HALF * saturated["none"].load.rate())
        for side in reversed(sides):
            self._go(side)
            half[side] = self._load(rate=rate, seconds=self.seconds or HALF_SECONDS, seed=number)
        return _ShadowRound(saturated, half)

    def _go(self, side: Side) -> None:
        """Begin or end the trial, unless it is so; wait until the replica has followed, and let it answer a while."""
        log = self.model.registry.channel(CHANNEL)
        head = log.head()
        if (side == "shadow") == bool(head and head.canary):
            return
        position = ChannelPosition(self.model.name, CHANNEL, head)
        canary = self.model.registry.bindings.get(VersionName.parse(CANARY)).pointer
        begin = StartTrial("shadow", 100)
        is_ending = side == "none"
        log.commit(aborted(position, _AUTHOR) if is_ending else trial_started(position, canary, _AUTHOR, None, begin))
        self.server.refresh()
        wait_for(lambda: self._is(side), _TIMEOUT, f"the side `{side}`", _LOOK)
        self._load(clients=CLIENTS, seconds=BETWEEN_SECONDS)

    def _is(self, side: Side) -> bool:
        health = self.server.health()
        trial = health.get("trial")
        if side == "none" or trial is None:
            return side == "none" and trial is None
        return not trial["problem"] and CANARY in health["resident"]

    def _load(self, **how: float) -> _SideLoad:
        shed, processor = self._shed(), self.server.processor_seconds()
        load = run_load(LoadJob(self.server.port, self.model.requests(), **how))  # type: ignore[arg-type]
        count = max(1, len(load.answers))
        took = 1000 * (self.server.processor_seconds() - processor)
        return _SideLoad(load, (self._shed() - shed) / count, took / count)

    def _shed(self) -> float:
        with urlopen(f"{self.server.url}/metrics") as answer:  # noqa: S310  an address of this benchmark
            lines = answer.read().decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("ulora_shadow_shed_total"))


def _found(rounds: Sequence[_ShadowRound]) -> Found:
    figures: dict[str, object] = {
        "images a second at saturation, shadow trial / none": statistics.median(one.rate for one in rounds),
        "p99 at half load, shadow trial / none, by rounds": [round(one.p99, 3) for one in rounds],
    }
    for side in ("none", "shadow"):
        figures[side] = _of_side([one.saturated[side] for one in rounds], [one.half[side] for one in rounds])
    p99 = statistics.median(one.p99 for one in rounds)
    return Found(figures, [Budget("p99 at half load, shadow trial / none", p99, "at most", MOST)])


def _of_side(saturated: Sequence[_SideLoad], half: Sequence[_SideLoad]) -> dict[str, object]:
    """Medians over the rounds."""
    return {
        "images a second at saturation": round(statistics.median(one.load.rate() for one in saturated), 1),
        "p50 and p99 at half load, in ms": [
            round(statistics.median(one.load.percentile(share) for one in half), 2) for share in (0.5, 0.99)
        ],
        "requests without an answer": sum(one.load.failed() for one in (*saturated, *half)),
    } | {
        f"{what}, at saturation and at half load": [
            round(statistics.median(value(one) for one in loads), 3) for loads in (saturated, half)
        ]
        for what, value in _OF_BOTH.items()
    }


_OF_BOTH: dict[str, Callable[[_SideLoad], float]] = {
    "share of images that the canary was not asked": lambda one: one.shed,
    "replica's processor ms of an image": lambda one: one.processor_ms,
    "client's share of a core": lambda one: one.load.client_share,
}

"""A guard's looks at a trial of many replicas: how long each takes, and how many bytes are read from the store.

The store is a real S3 server, and the guard the one of `ulora guard run`. Replicas are what they have written: an hour
of a trial, counted as replicas count. They write every 10 s and the guard looks every 5 s, so between two looks half of
them have written.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from benchmarks.comparison import Budget, say
from benchmarks.counting import CountingProxy
from benchmarks.empty_versions import CHANNEL, bind_empty, pointer_to, serve, version_names
from benchmarks.footprint import memory
from benchmarks.serving.outcome import Found
from benchmarks.serving.stage import ServingStage, on_stage
from benchmarks.trials.effort import TrialEffort
from registry.api import Registry
from registry.channels.record import Author, ChannelPosition, Record, trial_started
from registry.channels.trial import StartTrial
from registry.errors import LoadFailed
from registry.guard.guard import EVERY, Guard, GuardOptions
from registry.guard.notifiers import Notifiers
from registry.parallel import in_parallel
from registry.serving.fleet import Heartbeat
from registry.settings import Settings
from registry.store import layout
from registry.trials.observations import MAX_WINDOWS, WINDOW_SECONDS, TrialStage
from registry.trials.recorder import Counted, Recorder
from registry.trials.split import is_canary, unit_of
from registry.trials.stages import stage_of_record

MODEL = "bench-guard"
REPLICAS, FEW = 1_000, 20
PERCENT = 50.0
"""Of the canary: then both arms have every window, and observations are as large as they get in one stage."""
KINDS = 20
"""Replicas that count for themselves; the others have written the same under other names."""
REQUESTS = 6
"""Of a replica in ten seconds."""
ROUNDS = 5
FIRST, USUAL, QUIET = "the first look", "a look, half of the replicas have written", "a look, none has written"
_AUTHOR = Author("a benchmark")


def guard_looks(effort: TrialEffort) -> Found:
    """The first look, looks of every day, and looks while nothing is written."""
    count = FEW if effort.quick else REPLICAS
    with on_stage() as stage:
        registry = Registry(settings=replace(Settings.load(model=MODEL), tracking_uri=None))
        head = _begin(registry)
        fleet = _Fleet(registry, head, [f"replica-{number:04}" for number in range(count)], effort.seed)
        fleet.write(fleet.names)
        looks = _looks(stage, fleet)
    figures = {name: _shown(each) for name, each in looks.items()}
    usual = statistics.median(one.seconds for one in looks[USUAL])
    return Found(
        {"replicas": count, "bytes of a replica's observations": fleet.size, **figures},
        [Budget(f"a guard's look at {count} replicas, half of which have written", usual, "at most", EVERY, "s")],
    )


def _begin(registry: Registry) -> Record:
    """A channel with a trial; returns its record."""
    older, newer = version_names(2)
    bind_empty(registry, [older, newer])
    serve(registry, pointer_to(registry, older))
    log = registry.channel(CHANNEL)
    position = ChannelPosition(registry.model, CHANNEL, log.head())
    head = trial_started(position, pointer_to(registry, newer), _AUTHOR, None, StartTrial("split", PERCENT))
    log.commit(head)
    return head


# --- replicas --------------------------------------------------------------------------------------------------------


class _Fleet:
    """What replicas write: an hour of counts, again and again."""

    def __init__(self, registry: Registry, head: Record, names: Sequence[str], seed: int) -> None:
        self.names, self._registry, self._head = names, registry, head
        stage = stage_of_record(head)
        assert stage is not None  # noqa: S101  it has a stable version
        say("counting an hour of a trial")
        self._bodies = [
            _counted(stage, f"kind-{kind:02}", np.random.default_rng([seed, kind])) for kind in range(KINDS)
        ]
        self.size = len(self._bodies[0])

    def write(self, names: Sequence[str]) -> None:
        """Some replicas write their heartbeats and observations."""
        when = datetime.now(UTC).isoformat()
        in_parallel(lambda name: self._write(name, when), names)

    def _write(self, name: str, when: str) -> None:
        store, model, kind = self._registry.store, self._registry.model, self.names.index(name) % KINDS
        body = self._bodies[kind].replace(f'"kind-{kind:02}"'.encode(), f'"{name}"'.encode())
        before, _, after = body.partition(b'"when":"')
        body = before + f'"when":"{when}"'.encode() + after.partition(b'"')[2]
        store.overwrite(layout.observation(model, CHANNEL, name), body)
        store.overwrite(layout.replica(model, CHANNEL, name), _heartbeat(name, self._head, when).to_bytes())


def _counted(stage: TrialStage, name: str, draw: np.random.Generator) -> bytes:
    """The observations of a replica after an hour of requests."""
    now = [time.time() - MAX_WINDOWS * WINDOW_SECONDS]
    recorder = Recorder(name, name, lambda: now[0])
    for _ in range(MAX_WINDOWS):
        for key, chance, seconds in zip(
            draw.integers(0, 100_000, REQUESTS).tolist(),
            draw.random((REQUESTS, 2)).tolist(),
            draw.lognormal(-3, 0.25, REQUESTS).tolist(),
            strict=True,
        ):
            unit, text = unit_of(stage.salt, str(key)), str(key)
            counted = Counted(
                "answer", error=chance[0] < 0.001, flagged=chance[1] < 0.1, label="healthy",
                compute_seconds=seconds / 10, request_seconds=seconds,
            )  # fmt: skip
            recorder.record(stage, "canary" if is_canary(stage.salt, text, stage.weight) else "stable", unit, counted)
        now[0] += WINDOW_SECONDS
    return recorder.document().to_bytes()


def _heartbeat(name: str, head: Record, when: str) -> Heartbeat:
    stable, canary = head.live()
    return Heartbeat(
        format=1, id=name, host=name, pid=1, device="cpu", state="serving", version=stable,
        generation=head.generation, newest=head.generation, rollback_ready=True, resident=head.live(), error="",
        canary=canary, observed=when, when=when,
    )  # fmt: skip


# --- looks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Look:
    """What a look took.

    Attributes:
        processor: seconds of this process on all cores.
        grown: resident bytes of this process after it / before.
        read: bytes from the store, with the heads of its answers; counted in another guard's look.
    """

    seconds: float
    processor: float
    grown: int
    read: int
    requests: int


def _looks(stage: ServingStage, fleet: _Fleet) -> dict[str, list[_Look]]:
    with CountingProxy(stage.stack.s3.url) as proxy:
        guards = _Guards(_guard(stage.stack.s3.url), _guard(proxy.url), proxy)
        looks: dict[str, list[_Look]] = {FIRST: [guards.look()], USUAL: [], QUIET: []}
        for number in range(ROUNDS):
            fleet.write(fleet.names[number % 2 :: 2])
            looks[USUAL].append(guards.look())
            looks[QUIET].append(guards.look())
    return looks


def _guard(url: str) -> Guard:
    settings = replace(Settings.load(model=MODEL), tracking_uri=None, endpoint_url=url)
    return Guard(Registry(settings=settings), Notifiers([]), GuardOptions(channels=(CHANNEL,)))


@dataclass(frozen=True)
class _Guards:
    """Two guards that see the same: one is timed, the reads of the other go through a proxy, which takes time."""

    timed: Guard
    counted: Guard
    proxy: CountingProxy

    def look(self) -> _Look:
        """Let both look.

        Raises:
            LoadFailed: the trial could not be judged.
        """
        before, processor, began = memory(), time.process_time(), time.perf_counter()
        found = self.timed.look()[0]
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
        say(f"a look took {seconds:.2f} s: {found.summary}")
        if found.problem:
            raise LoadFailed(f"the guard could not judge: {found.problem}")
        grown = memory() - before
        self.proxy.take()
        self.counted.look()
        traffic = self.proxy.take()
        return _Look(seconds, processor, grown, traffic.received, len(traffic.requests))


def _shown(looks: Sequence[_Look]) -> dict[str, float]:
    return {
        "seconds": round(statistics.median(one.seconds for one in looks), 3),
        "processor seconds": round(statistics.median(one.processor for one in looks), 3),
        "megabytes read": round(statistics.median(one.read for one in looks) / 1e6, 3),
        "requests": statistics.median(one.requests for one in looks),
        "megabytes that the guard grows by": round(statistics.median(one.grown for one in looks) / 1e6, 1),
    }

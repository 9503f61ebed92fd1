"""The drill: what happens when, if `ulora rollback` is run while a replica answers requests.

A real replica of the tiny backbone, two versions in its memory, one client in another process that sends photos all the
time. Zero is the start of the command.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.comparison import say
from benchmarks.empty_versions import pointer_to, serve
from benchmarks.serving.client import LoadJob
from benchmarks.serving.load import LoadResult, in_background, wait_for
from benchmarks.serving.stage import CHANNEL, MeasuredReplica, ModelOnStage, ServingStage, replica
from registry.errors import LoadFailed
from registry.machine.programs import DEVNULL, Process, start

SIZE = "tiny"
VERSIONS = ("v1.0.0", "v1.0.1")
_TIMEOUT = 60.0
_LOOK = 0.005


@dataclass(frozen=True)
class DrillRound:
    """One rollback. Milliseconds from the start of the command.

    Attributes:
        moved: the log has moved, as seen by reading it.
        answered: the replica says that it answers by the version.
        ended: the process has ended: replicas and MLflow were told and asked.
    """

    moved: float
    answered: float
    ended: float


@dataclass(frozen=True)
class Drill:
    """All rounds of a drill.

    Attributes:
        requests: that the replica was sent meanwhile; `failed` of them got no 200.
        slowest: milliseconds of the slowest answer.
    """

    rounds: Sequence[DrillRound]
    requests: int
    failed: int
    slowest: float

    def document(self) -> dict[str, object]:
        """As JSON: the median of each point in time, and what clients saw."""
        points = {name: [getattr(one, name) for one in self.rounds] for name in ("moved", "answered", "ended")}
        known: dict[str, object] = {name: round(statistics.median(values), 1) for name, values in points.items()}
        return known | {
            "rounds": [[round(value, 1) for value in (one.moved, one.answered, one.ended)] for one in self.rounds],
            "requests": self.requests,
            "failed": self.failed,
            "slowest answer": round(self.slowest, 1),
        }

    def metrics(self) -> dict[str, float]:
        """With short names."""
        followed = [one.answered - one.moved for one in self.rounds]
        return {
            "drill_log_moved_ms": statistics.median(one.moved for one in self.rounds),
            "drill_replica_answers_ms": statistics.median(one.answered for one in self.rounds),
            "drill_moved_to_answered_ms": statistics.median(followed),
            "drill_command_ends_ms": statistics.median(one.ended for one in self.rounds),
            "drill_failed_requests": float(self.failed),
        }


def drill(stage: ServingStage, rounds: int) -> Drill:
    """Roll a replica back, again and again, under requests."""
    model = stage.model(SIZE)
    for version in VERSIONS:
        model.create(version, offline=False)
        model.serve(version)
    with replica(model, "drill") as server:
        _wait_until_it_answers_by(server, VERSIONS[1])
        with in_background(LoadJob(server.port, model.requests(), clients=1)) as load:
            told = []
            for number in range(rounds):
                say(f"drill: rollback {number + 1} of {rounds}")
                told.append(_one(model, server))
            load.end()
            seen: LoadResult = load.result()
    slowest = max((one.seconds for one in seen.answers), default=0.0) * 1e3
    return Drill(tuple(told), len(seen.answers), seen.failed(), slowest)


def _one(model: ModelOnStage, server: MeasuredReplica) -> DrillRound:
    """Promote the newer version, wait for the replica, and roll back to the older one."""
    generation = serve(model.registry, pointer_to(model.registry, VERSIONS[1]))
    _wait_until_it_answers_by(server, VERSIONS[1])
    log = model.registry.channel(CHANNEL)
    words = ["-m", "registry", "rollback", "--model", model.name, "--from", VERSIONS[1], "--reason", "drill"]
    began = time.monotonic()
    with start([sys.executable, *words], stdout=DEVNULL, stderr=DEVNULL, env=model.stage.env) as process:
        moved = wait_for(lambda: log.next(generation) is not None, _TIMEOUT, "the rollback", _LOOK)
        answered = _wait_until_it_answers_by(server, VERSIONS[0])
        ended = _end_of(process)
    return DrillRound(*((when - began) * 1e3 for when in (moved, answered, ended)))


def _end_of(process: Process[bytes]) -> float:
    if process.wait(_TIMEOUT):
        raise LoadFailed(f"ulora rollback ended with exit status {process.returncode}")
    return time.monotonic()


def _wait_until_it_answers_by(server: MeasuredReplica, version: str) -> float:
    return wait_for(lambda: server.health().get("version") == version, _TIMEOUT, f"an answer by {version}", _LOOK)

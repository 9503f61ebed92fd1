"""Ten times the load that a replica can answer: what is admitted, what is refused, memory, health."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.error import HTTPError

from benchmarks.comparison import Budget, say
from benchmarks.serving.client import LoadJob, write_requests
from benchmarks.serving.load import OK, SLOWEST, TOO_MANY, LoadResult, get_request, in_background, run_load
from benchmarks.serving.outcome import Effort, Found
from benchmarks.serving.stage import MeasuredReplica, ModelOnStage, ServingStage, ask_json, replica

VERSION = "v1.0.0"
TIMES = 10.0
SECONDS = 60.0
DEADLINE = 2.0
REFUSED_MS, HEALTH_MS, GROWTH, UNANSWERED = 50.0, 100.0, 0.10, 0.01
_CLIENTS = {"tiny": 16, "vit-b": 8}
_PROBES = 10.0
"""Looks at the health a second."""
_CONNECTIONS = 1500
"""Of the flood: more requests than a deadline has time for, and fewer than `--max-connections`."""
_LOOK = 0.25


def overload(stage: ServingStage, effort: Effort) -> Found:
    """Measure every size."""
    figures: dict[str, object] = {}
    budgets: list[Budget] = []
    for size in effort.sizes:
        model = stage.model(size)
        model.create(VERSION)
        model.serve(VERSION)
        with replica(model, "overload", "--deadline", str(DEADLINE)) as server:
            found = _of_size(model, server, effort)
        figures |= {f"{size}: {name}": value for name, value in found.figures.items()}
        budgets += found.budgets
    return Found(figures, budgets)


def _of_size(model: ModelOnStage, server: MeasuredReplica, effort: Effort) -> Found:
    seconds = effort.of(SECONDS, 3.0)
    job = LoadJob(server.port, model.requests(), clients=_CLIENTS[model.size], seconds=effort.of(10.0, 4.0))
    quiet = run_load(job)
    capacity = quiet.rate()
    say(f"{model.size}: {TIMES * capacity:.0f} requests a second for {seconds:g} s, {TIMES:g} x its capacity")
    probe = LoadJob(server.port, _probe(model, server), rate=_PROBES, seconds=seconds)
    rate = max(SLOWEST, TIMES * capacity)
    flood = LoadJob(server.port, model.requests(), rate=rate, seconds=seconds, connections=_CONNECTIONS)
    with _watched(server) as memory, in_background(probe) as looks:
        load = run_load(flood)
        health = looks.result()
    recovered = _usable_after(model, server)
    admitted, refused = load.percentile(0.99), load.percentile(0.99, TOO_MANY)
    figures: dict[str, object] = {
        "capacity, images a second": capacity,
        "sent, requests a second": len(load.answers) / seconds,
        "answers by status": load.statuses(),
        "images a second meanwhile": load.rate(),
        "the same / capacity": load.rate() / capacity,
        "resident bytes before and at most": [memory.before, memory.most],
        "due until sent by the client, p99 in ms": _held(load),
        "refusals, p50 in ms": load.percentile(0.5, TOO_MANY),
        "seconds until one request is answered afterwards": recovered,
        "client's share of a core": load.client_share,
    }
    growth = memory.most / memory.before - 1
    name = f"{model.size}: {TIMES:g} x overload"
    return Found(
        figures,
        [
            Budget(f"{name}, p99 of the admitted", admitted, "at most", 1000 * DEADLINE, "ms"),
            Budget(f"{name}, admitted and not answered", _unanswered(load), "at most", UNANSWERED, "of them"),
            Budget(f"{name}, p99 of refusals", refused, "at most", REFUSED_MS, "ms"),
            Budget(f"{name}, p99 of health", health.percentile(0.99), "at most", HEALTH_MS, "ms"),
            Budget(f"{name}, growth of resident memory", growth, "at most", GROWTH, "of it"),
        ],
    )


def _unanswered(load: LoadResult) -> float:
    """The share of what was not refused that got no answer: late in the queue, or nothing at all."""
    admitted = [one for one in load.answers if one.status != TOO_MANY]
    return sum(one.status != OK for one in admitted) / max(1, len(admitted))


def _held(load: LoadResult) -> float:
    """Milliseconds between the moment at which a request was due and its being sent: what the client itself adds."""
    waits = sorted(one.sent - one.due for one in load.answers)
    return 1000 * waits[int(0.99 * (len(waits) - 1))] if waits else 0.0


def _usable_after(model: ModelOnStage, server: MeasuredReplica) -> float:
    """Seconds until a request that comes alone is answered."""
    began = time.monotonic()
    while time.monotonic() - began < 300:
        if not run_load(LoadJob(server.port, model.requests(), clients=1, count=1)).failed():
            return time.monotonic() - began
    return float("inf")


def _probe(model: ModelOnStage, server: MeasuredReplica) -> str:
    """The file of the request that asks whether the process lives."""
    path = "/health/live"
    try:
        ask_json(f"{server.url}{path}")
    except HTTPError:
        path = "/health"
    return str(write_requests(model.stage.folder / "probe.http", [get_request(path)]))


@dataclass
class Memory:
    """Resident bytes of a process: at the beginning, and the most since."""

    before: int
    most: int = field(default=0)


@contextmanager
def _watched(server: MeasuredReplica) -> Iterator[Memory]:
    memory = Memory(server.resident_bytes())
    memory.most = memory.before
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK):
            memory.most = max(memory.most, server.resident_bytes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()

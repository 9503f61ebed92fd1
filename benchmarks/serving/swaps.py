"""Changes of the version under load: no request fails, none is mixed, and none waits.

`swaps` compares every answer with what its version answers when all is quiet. `flips` compares the latency around
changes with that of the same load between them.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from benchmarks.comparison import Budget, say
from benchmarks.serving.client import LoadJob
from benchmarks.serving.load import ClientAnswer, in_background, percentile, run_load, save, wait_for
from benchmarks.serving.outcome import Effort, Found
from benchmarks.serving.stage import MeasuredReplica, ModelOnStage, ServingStage, replica

SIZE = "tiny"
REQUESTS, SWAPS = 100_000, 20
FLIPS, LOADS = 220, 24
AROUND, WHILE_LOADING = 1.2, 2.0
TOLERANCE = 1e-3
"""Of numbers in answers: batches of other sizes sum in another order."""
_CLIENTS = 16
_PAUSE, _AFTER = 0.3, 0.15
"""Seconds between two flips, and how long after one an answer counts as around it."""
_LOAD_PAUSE = 1.0
_LOOK = 0.02
"""Seconds between two looks at the replica: each takes time from the cores that it answers with."""
_TIMEOUT = 120.0
Window = tuple[float, float]
"""From when to when, by `time.monotonic`."""
WidenWindow = Callable[[Window], Window]


def swaps(stage: ServingStage, effort: Effort) -> Found:
    """Requests through swaps to versions in memory, and to others, which are loaded first."""
    model = stage.model(SIZE)
    versions = [f"v3.{number}.0" for number in range(SWAPS // 2 + 1)]
    for version in versions:
        model.create(version)
    model.serve(versions[0])
    count = effort.count(REQUESTS, 500)
    say("asking each version quietly")
    expected = save(stage.folder / "expected.json", {version: _quiet_answers(model, version) for version in versions})
    with replica(model, "swaps", "--deadline", "60") as server:
        rate = run_load(LoadJob(server.port, model.requests(), clients=_CLIENTS, seconds=2)).rate()
        pause = 0.8 * count / max(rate, 1) / SWAPS
        job = LoadJob(
            server.port, model.requests(), clients=_CLIENTS, least=count, expected=expected, tolerance=TOLERANCE
        )
        with in_background(job) as load:
            moved = _swap_all(model, server, versions, pause)
            load.end()
            result = load.result()
    last = max(one.done for one in result.answers)
    under_load = sum(when < last for when in moved)
    figures = {
        "requests": len(result.answers),
        "swaps while they ran": under_load,
        "answers by version": dict(sorted(Counter(one.version for one in result.answers).items())),
        "answers by status": result.statuses(),
        "images a second": result.rate(),
        "examples of differences": list(result.wrong[:3]),
    }
    return Found(
        figures,
        [
            Budget("swaps while requests ran", under_load, "at least", SWAPS, "swaps"),
            Budget("requests through swaps that failed", result.failed(), "at most", 0, "requests"),
            Budget("answers that are not their version's", len(result.wrong), "at most", 0, "answers"),
        ],
    )


def _swap_all(model: ModelOnStage, server: MeasuredReplica, versions: Sequence[str], pause: float) -> list[float]:
    """Go to each version, which has to be loaded, and back to the first, which is in memory; when each was served."""
    first, *others = versions
    moved = []
    for number, version in enumerate(version for other in others for version in (other, first)):
        time.sleep(pause)
        say(f"swap {number + 1} of {2 * len(others)}: to {version}")
        _go(model, server, version)
        moved.append(time.monotonic())
    return moved


def _go(model: ModelOnStage, server: MeasuredReplica, version: str) -> Window:
    """Serve a version; when the log had moved, and when the replica followed."""
    record = model.serve(version)
    moved = time.monotonic()
    server.refresh()
    return moved, wait_for(
        lambda: server.health()["generation"] >= record.generation, _TIMEOUT, f"that {version} is served", _LOOK
    )


def _quiet_answers(model: ModelOnStage, version: str) -> list[dict[str, object]]:
    loaded = model.registry.load(version)
    return [loaded.predict(image, target=target).to_dict() for image, target in model.asked()]


def flips(stage: ServingStage, effort: Effort) -> Found:
    """Latency around changes of the version, at half of the capacity."""
    model = stage.model(SIZE)
    two = ("v4.0.0", "v4.1.0")
    others = [f"v5.{number}.0" for number in range(effort.count(LOADS, 2))]
    for version in (*two, *others):
        model.create(version)
    model.serve(two[0])
    with replica(model, "flips", "--deadline", "60") as server:
        capacity = run_load(LoadJob(server.port, model.requests(), clients=_CLIENTS, seconds=effort.of(8, 1))).rate()
        job = LoadJob(server.port, model.requests(), rate=max(5.0, 0.5 * capacity))
        _go(model, server, two[1])
        flipped = _Measured(job, [two[number % 2] for number in range(effort.count(FLIPS, 6))], _PAUSE)
        loaded = _Measured(job, others, _LOAD_PAUSE)
        flipped.run(model, server, lambda window: (window[0], window[1] + _AFTER))
        loaded.run(model, server, lambda window: (window[0], _quiet_again(server)))
    figures: dict[str, object] = {"capacity, images a second": capacity}
    figures |= flipped.figures("flips") | loaded.figures("loads")
    return Found(
        figures,
        [
            Budget("p99 around flips to a version in memory / steady", flipped.ratio(), "at most", AROUND),
            Budget("p99 while a version is loaded / steady", loaded.ratio(), "at most", WHILE_LOADING),
        ],
    )


def _quiet_again(server: MeasuredReplica) -> float:
    """When the replica loads nothing more."""

    def is_quiet() -> bool:
        health = server.health()
        return bool(health["rollback_ready"]) and not health["loading"]

    return wait_for(is_quiet, _TIMEOUT, "that nothing is loaded any more", _LOOK)


class _Measured:
    """Changes of the version under a load, and its latency around them and between them."""

    def __init__(self, job: LoadJob, versions: Sequence[str], pause: float) -> None:
        self._job, self._versions, self._pause = job, versions, pause
        self._around: list[ClientAnswer] = []
        self._steady: list[ClientAnswer] = []
        self._failed = 0
        self._windows: list[Window] = []

    def run(self, model: ModelOnStage, server: MeasuredReplica, widen: WidenWindow) -> None:
        """Change to each version in turn."""
        seconds = 2.0 + 3.0 * len(self._versions) * (self._pause + 1.0)
        job = LoadJob(self._job.port, self._job.requests, rate=self._job.rate, seconds=seconds)
        with in_background(job) as load:
            time.sleep(1.0)
            for number, version in enumerate(self._versions):
                if number % 50 == 0:
                    say(f"change {number + 1} of {len(self._versions)}")
                self._windows.append(widen(_go(model, server, version)))
                time.sleep(self._pause)
            load.end()
            result = load.result()
        last = self._windows[-1][1] + self._pause
        self._around, self._steady = split([one for one in result.answers if one.due < last], self._windows)
        self._failed = sum(one.status != 200 for one in (*self._around, *self._steady))

    def ratio(self) -> float:
        """p99 around changes / steady."""
        steady = percentile((one.seconds for one in self._steady), 0.99)
        return percentile((one.seconds for one in self._around), 0.99) / steady if steady else math.nan

    def figures(self, name: str) -> dict[str, object]:
        """What stands beside the ratio."""
        parts = {"around": self._around, "steady": self._steady}
        return {
            f"{name}": len(self._windows),
            f"{name}: failed requests": self._failed,
            f"{name}: answers around, and steady": [len(self._around), len(self._steady)],
        } | {
            f"{name}: p50 and p99 {where}, in ms": [
                round(percentile((one.seconds for one in answers), share), 2) for share in (0.5, 0.99)
            ]
            for where, answers in parts.items()
        }


def split(answers: Iterable[ClientAnswer], windows: Sequence[Window]) -> tuple[list[ClientAnswer], list[ClientAnswer]]:
    """The answers that were under way in one of the windows, and the others."""
    around: list[ClientAnswer] = []
    steady: list[ClientAnswer] = []
    for one in answers:
        inside = any(low <= one.done and one.due <= high for low, high in windows)
        (around if inside else steady).append(one)
    return around, steady

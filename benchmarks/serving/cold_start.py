"""From the start of a process with an empty cache until it answers: a replica, the bare bytes and backbone, MLflow."""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Callable

from benchmarks.comparison import Budget, say
from benchmarks.serving.client import LoadJob
from benchmarks.serving.load import run_load
from benchmarks.serving.outcome import Effort, Found
from benchmarks.serving.stage import MeasuredReplica, ModelOnStage, ServingStage
from registry.errors import LoadFailed
from registry.machine.programs import PIPE, start
from registry.names import VersionName
from registry.store import layout

VERSION = "v1.0.0"
ROUNDS = 7
AT_MOST = 1.25
PREFIX = "ulora/"
"""Of the store's keys in its bucket."""


def cold_start(stage: ServingStage, effort: Effort) -> Found:
    """Measure every size."""
    figures: dict[str, object] = {}
    budgets: list[Budget] = []
    for size in effort.sizes:
        model = stage.model(size)
        model.create(VERSION, offline=False)
        model.serve(VERSION)
        found = _of_size(model, effort.count(ROUNDS, 1))
        figures |= {f"{size}: {name}": value for name, value in found.figures.items()}
        budgets += found.budgets
    return Found(figures, budgets)


def _of_size(model: ModelOnStage, rounds: int) -> Found:
    turns: dict[str, Callable[[int], float]] = {
        "replica": lambda number: _replica(model, number),
        "bytes and backbone": lambda number: _bytes(model, number),
        "mlflow.pyfunc.load_model": lambda number: _mlflow(model),
    }
    times: dict[str, list[float]] = {name: [] for name in turns}
    names = list(turns)
    for number in range(rounds):
        say(f"{model.size}: cold starts, round {number + 1} of {rounds}")
        first = number % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(turns[name](number))

    def ratio(one: str, other: str) -> float:
        return statistics.median(mine / its for mine, its in zip(times[one], times[other], strict=True))

    figures: dict[str, object] = {f"{name}, seconds": round(statistics.median(took), 3) for name, took in times.items()}
    figures["mlflow.pyfunc.load_model / replica"] = ratio("mlflow.pyfunc.load_model", "replica")
    value = ratio("replica", "bytes and backbone")
    return Found(figures, [Budget(f"{model.size}: cold start / (parallel GET + backbone)", value, "at most", AT_MOST)])


def _replica(model: ModelOnStage, number: int) -> float:
    """Seconds until the first answer of a replica with an empty cache."""
    folder = model.stage.folder / "cold" / f"{model.size}-{number}"
    server = MeasuredReplica(model, folder)
    began = time.monotonic()
    try:
        server.start()
        ready = time.monotonic() - began
        first = run_load(LoadJob(server.port, model.requests(), clients=1, count=1))
        if first.failed():
            raise LoadFailed(f"the first request after a cold start was answered with {first.statuses()}")
        return ready + first.answers[0].seconds
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _bytes(model: ModelOnStage, number: int) -> float:
    folder = model.stage.folder / "cold" / f"bytes-{model.size}-{number}"
    pointer = model.registry.bindings.get(VersionName.parse(VERSION)).pointer
    manifest = model.registry.manifest(VERSION)
    digests = [pointer.manifest_sha256, *(file.sha256 for file in manifest.files)]
    weights = PREFIX + layout.blob(model.backbone.ref.sha256)
    keys = [PREFIX + layout.blob(digest) for digest in dict.fromkeys(digests)]
    config = model.backbone.folder / "config.json"
    try:
        return _until_ready(model, "bytes", model.stage.stack.s3.bucket, str(config), weights, str(folder), *keys)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mlflow(model: ModelOnStage) -> float:
    return _until_ready(model, "mlflow", model.name)


def _until_ready(model: ModelOnStage, *words: str) -> float:
    """Seconds until a process says that it is ready."""
    env = {**model.stage.env, "ULORA_BACKBONES": str(model.backbone.folder.parent)}
    began = time.monotonic()
    with start([sys.executable, "-m", "benchmarks.serving.starts", *words], stdout=PIPE, text=True, env=env) as process:
        assert process.stdout is not None  # noqa: S101  a pipe was asked for
        for line in process.stdout:
            if line.strip() == "ready":
                return time.monotonic() - began
    raise LoadFailed(f"the start by {words[0]} ended with exit status {process.returncode}")

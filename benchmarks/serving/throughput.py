"""Images a second: a replica against the bare forward pass and against other servers of the same version."""

from __future__ import annotations

import base64
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.comparison import Budget, say
from benchmarks.serving.bare import BareForward, bare_forward
from benchmarks.serving.client import LoadJob, write_requests
from benchmarks.serving.load import LoadResult, post_requests, run_load
from benchmarks.serving.outcome import Effort, Found
from benchmarks.serving.stage import MeasuredReplica, ModelOnStage, PeerServer, ServingStage, replica
from registry.errors import LoadFailed, MissingDependency, first_line
from registry.machine.cores import usable_cores
from registry.machine.programs import DEVNULL, start

VERSION = "v1.0.0"
CLIENTS = (1, 4, 16, 64)
AT_LEAST = {"tiny": 0.5, "vit-b": 0.95}
OPEN_LOOPS = (0.5, 0.9)
_DEADLINE = "600"
"""Seconds: saturation is no overload here."""


@dataclass(frozen=True)
class Contender:
    """A running server, and the file of its requests."""

    port: int
    requests: str

    def closed_loop(self, clients: int, seconds: float) -> LoadResult:
        """So many clients that ask all the time."""
        return run_load(LoadJob(self.port, self.requests, clients=clients, seconds=seconds))

    def open_loop(self, rate: float, seconds: float) -> LoadResult:
        """So many requests a second, whatever comes back."""
        return run_load(LoadJob(self.port, self.requests, rate=rate, seconds=seconds))


def throughput(stage: ServingStage, effort: Effort) -> Found:
    """Measure every size."""
    figures: dict[str, object] = {}
    budgets: list[Budget] = []
    for size in effort.sizes:
        model = stage.model(size)
        model.create(VERSION, offline=False)
        model.serve(VERSION)
        with replica(model, "throughput", "--deadline", _DEADLINE) as server, ExitStack() as peers:
            found = _of_size(model, server, effort, peers)
        figures |= {f"{size}: {name}": value for name, value in found.figures.items()}
        budgets += found.budgets
    return Found(figures, budgets)


def _of_size(model: ModelOnStage, server: MeasuredReplica, effort: Effort, peers: ExitStack) -> Found:
    max_batch = int(server.health()["max_batch"])
    ours = Contender(server.port, model.requests())
    rivals, missing = _rivals(model, max_batch, effort, peers)
    contenders = {"replica": ours, **rivals}
    seconds = effort.of(6.0 if model.size == "tiny" else 20.0, 1.0)
    rates: dict[str, dict[int, float]] = {name: {} for name in contenders}
    for clients in CLIENTS:
        for name, contender in contenders.items():
            say(f"{model.size}: {name}, {clients} clients")
            rates[name][clients] = round(contender.closed_loop(clients, seconds).rate(), 2)
    best = max(rates["replica"], key=lambda clients: rates["replica"][clients])
    with bare_forward(model, VERSION, max_batch) as bare:
        bare.rates(0.1)
        ratios = _ratios(ours, bare, best, seconds, effort.count(5, 2), model.size)
    capacity = statistics.median(ratios.served)
    figures: dict[str, object] = {
        "images a second by clients": rates,
        "not measured": missing,
        "max_batch": max_batch,
        "batches seen": batches_seen(server),
        "replica at saturation, images a second": capacity,
        "bare forward, images a second": statistics.median(ratios.forward),
        "plain backbone of transformers, images a second": statistics.median(ratios.plain),
        "replica / plain backbone": _ratio(ratios.served, ratios.plain),
        "client's share of a core": ratios.client_share,
        "cores": usable_cores(),
    }
    for name in rivals:
        figures[f"replica / {name}, each at its best"] = max(rates["replica"].values()) / max(
            *rates[name].values(), 1e-9
        )
    figures |= _open_loops(ours, capacity, seconds, model.size)
    value = _ratio(ratios.served, ratios.forward)
    budget = Budget(f"{model.size}: replica / bare forward", value, "at least", AT_LEAST[model.size])
    return Found(figures, [budget])


@dataclass(frozen=True)
class _Ratios:
    served: list[float]
    forward: list[float]
    plain: list[float]
    client_share: float


def _ratios(ours: Contender, bare: BareForward, clients: int, seconds: float, rounds: int, size: str) -> _Ratios:
    """Bare forward and replica in turns."""
    served, forward, plain, shares = [], [], [], []
    for number in range(rounds):
        say(f"{size}: replica and bare forward, round {number + 1} of {rounds}")
        if number % 2:
            load = ours.closed_loop(clients, seconds)
        computed = bare.rates(seconds / 2)
        if not number % 2:
            load = ours.closed_loop(clients, seconds)
        served.append(load.rate())
        shares.append(load.client_share)
        forward.append(computed[0])
        plain.append(computed[1])
    return _Ratios(served, forward, plain, statistics.median(shares))


def _ratio(ones: list[float], others: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def _open_loops(ours: Contender, capacity: float, seconds: float, size: str) -> dict[str, object]:
    figures: dict[str, object] = {}
    for share in OPEN_LOOPS:
        say(f"{size}: open loop at {share:g} x its capacity")
        load = ours.open_loop(share * capacity, seconds)
        figures[f"open loop at {share:g} x, p50 and p99 in ms"] = [
            round(load.percentile(part), 1) for part in (0.5, 0.99)
        ]
    return figures


def batches_seen(server: MeasuredReplica) -> dict[str, int]:
    """How many batches had at most so many images, by the replica's metrics."""
    from urllib.request import urlopen

    from prometheus_client.parser import text_string_to_metric_families

    with urlopen(f"{server.url}/metrics") as answer:  # noqa: S310  an address of this benchmark
        text = answer.read().decode()
    seen, before = {}, 0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "ulora_batch_rows_bucket":
                if sample.value > before:
                    seen[sample.labels["le"]] = int(sample.value) - before
                before = int(sample.value)
    return seen


# --- rivals ----------------------------------------------------------------------------------------------------------


def _rivals(
    model: ModelOnStage, max_batch: int, effort: Effort, peers: ExitStack
) -> tuple[dict[str, Contender], dict[str, str]]:
    """The other servers, all running, and why some are not."""
    running: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    for name, begin in (("one at a time", _one_at_a_time), ("LitServe", _litserve), ("mlflow models serve", _mlflow)):
        say(f"{model.size}: starting {name}")
        try:
            running[name] = peers.enter_context(begin(model, max_batch, effort))
        except (LoadFailed, MissingDependency) as error:
            missing[name] = first_line(error)
            say(f"{name} is left out: {first_line(error)}")
    return running, missing


@contextmanager
def _peer(server: PeerServer, requests: str) -> Iterator[Contender]:
    try:
        server.start()
        yield Contender(server.port, requests)
    finally:
        server.stop()


@contextmanager
def _one_at_a_time(model: ModelOnStage, max_batch: int, effort: Effort) -> Iterator[Contender]:
    words = ["benchmarks.baselines.one_at_a_time", *_files(model), "--port", "{port}"]
    server = PeerServer(_folder(model, "one-at-a-time"), words, "/health", model.stage.env)
    with _peer(server, model.requests()) as contender:
        yield contender


@contextmanager
def _litserve(model: ModelOnStage, max_batch: int, effort: Effort) -> Iterator[Contender]:
    env = _with_packages(model.stage.env, effort)
    if start([sys.executable, "-c", "import litserve"], env=dict(env), stderr=DEVNULL).wait():
        raise MissingDependency("litserve is not installed", hint="pip install litserve")
    words = ["benchmarks.baselines.litserve_server", *_files(model), "--port", "{port}", "--max-batch", str(max_batch)]
    bodies = [
        json.dumps({"image": base64.b64encode(image).decode(), "target": target}).encode()
        for image, target in model.asked()
    ]
    requests = _written(model, "litserve", "/predict", bodies)
    with _peer(PeerServer(_folder(model, "litserve"), words, "/health", env), requests) as contender:
        yield contender


@contextmanager
def _mlflow(model: ModelOnStage, max_batch: int, effort: Effort) -> Iterator[Contender]:
    cores = usable_cores()
    words = [
        "mlflow", "models", "serve", "-m", f"models:/{model.name}/1", "--env-manager", "local",
        "--host", "127.0.0.1", "--port", "{port}", "--workers", str(cores),
    ]  # fmt: skip
    bodies = [
        json.dumps(
            {"dataframe_split": {"columns": ["image", "target"], "data": [[base64.b64encode(image).decode(), target]]}}
        ).encode()
        for image, target in model.asked()
    ]
    requests = _written(model, "mlflow", "/invocations", bodies)
    env = {**model.stage.env, "OMP_NUM_THREADS": "1", "ULORA_BACKBONES": str(model.backbone.folder.parent)}
    with _peer(PeerServer(_folder(model, "mlflow"), words, "/ping", env), requests) as contender:
        yield contender


def _written(model: ModelOnStage, name: str, path: str, bodies: list[bytes]) -> str:
    file = model.stage.folder / f"{name}-{model.size}.http"
    return str(write_requests(file, post_requests(path, bodies, {"Content-Type": "application/json"})))


def _files(model: ModelOnStage) -> tuple[str, str]:
    return str(model.bundles[VERSION]), str(model.backbone.folder)


def _folder(model: ModelOnStage, name: str) -> Path:
    return model.stage.folder / "peers" / f"{name}-{model.size}"


def _with_packages(env: Mapping[str, str], effort: Effort) -> Mapping[str, str]:
    return {**env, "PYTHONPATH": str(effort.packages)} if effort.packages else env

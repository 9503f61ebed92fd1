"""Images a second: a replica against the bare forward pass and against other servers of the same version."""

from __future__ import annotations

import base64
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.comparison import Budget, say
from benchmarks.serving.bare import BareForward, ForwardSpeed, bare_forward
from benchmarks.serving.client import LoadJob, write_requests
from benchmarks.serving.load import SLOWEST, LoadResult, post_requests, run_load
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
"""Seconds: so long that the replica refuses nothing, because this part measures throughput."""


@dataclass(frozen=True)
class ServerAtWork:
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
        with replica(model, "throughput", "--deadline", _DEADLINE) as server:
            found = _of_size(model, server, effort)
        figures |= {f"{size}: {name}": value for name, value in found.figures.items()}
        budgets += found.budgets
    return Found(figures, budgets)


def _of_size(model: ModelOnStage, server: MeasuredReplica, effort: Effort) -> Found:
    max_batch = int(server.health()["max_batch"])
    ours = ServerAtWork(server.port, model.requests())
    seconds = effort.of(6.0 if model.size == "tiny" else 20.0, 1.0)
    with ExitStack() as peers:
        rivals, missing = _rivals(model, max_batch, effort, peers)
        rates = _closed_loops({"replica": ours, **rivals}, seconds, model.size)
    best = max(rates["replica"], key=lambda clients: rates["replica"][clients])
    with bare_forward(model, VERSION, max_batch) as bare:
        rounds = [_round(server, ours, bare, best, seconds, number, model.size) for number in range(effort.count(5, 2))]
    capacity = statistics.median(one.served for one in rounds)
    figures: dict[str, object] = {
        "images a second by clients": rates,
        "not measured": missing,
        "cores": usable_cores(),
        "max_batch": max_batch,
        "batches seen": batches_seen(server),
    }
    for name in rivals:
        figures[f"replica / {name}, each at its best"] = max(rates["replica"].values()) / max(rates[name].values())
    figures |= _medians(rounds) | _open_loops(ours, capacity, seconds, model.size)
    value = statistics.median(one.served / one.forward.rate for one in rounds)
    return Found(figures, [Budget(f"{model.size}: replica / bare forward", value, "at least", AT_LEAST[model.size])])


def _closed_loops(servers: Mapping[str, ServerAtWork], seconds: float, size: str) -> dict[str, dict[int, float]]:
    """Images a second by name and clients. Servers take turns."""
    rates: dict[str, dict[int, float]] = {name: {} for name in servers}
    for clients in CLIENTS:
        for name, each in servers.items():
            say(f"{size}: {name}, {clients} clients")
            rates[name][clients] = max(1e-3, round(each.closed_loop(clients, seconds).rate(), 2))
    return rates


@dataclass(frozen=True)
class _Round:
    """A round of the replica and of the bare forward pass.

    Attributes:
        served: images a second by the replica.
        processor_ms: of the replica for each of them.
        client_share: of a core, that the client took.
    """

    served: float
    processor_ms: float
    client_share: float
    forward: ForwardSpeed
    plain: ForwardSpeed
    whole: ForwardSpeed


def _round(
    server: MeasuredReplica, ours: ServerAtWork, bare: BareForward, clients: int, seconds: float, number: int, size: str
) -> _Round:
    """Both, another one first each time."""
    say(f"{size}: replica and bare forward, round {number + 1}")
    computed = bare.speeds(seconds / 2) if number % 2 else None
    before = server.processor_seconds()
    load = ours.closed_loop(clients, seconds)
    took = 1000 * (server.processor_seconds() - before) / max(1, len(load.answers))
    forward, plain, whole = computed or bare.speeds(seconds / 2)
    return _Round(load.rate(), took, load.client_share, forward, plain, whole)


def _medians(rounds: Sequence[_Round]) -> dict[str, object]:
    def median(value: Callable[[_Round], float]) -> float:
        return statistics.median(value(one) for one in rounds)

    return {
        "replica at saturation, images a second": median(lambda one: one.served),
        "bare forward, images a second": median(lambda one: one.forward.rate),
        "plain backbone of transformers, images a second": median(lambda one: one.plain.rate),
        "reading and answering in one thread, images a second": median(lambda one: one.whole.rate),
        "replica / plain backbone": median(lambda one: one.served / one.plain.rate),
        "replica / reading and answering": median(lambda one: one.served / one.whole.rate),
        "processor ms of an image: replica, bare forward": [
            round(median(lambda one: one.processor_ms), 3), round(median(lambda one: one.forward.processor_ms), 3),
        ],
        "client's share of a core": median(lambda one: one.client_share),
    }  # fmt: skip


def _open_loops(ours: ServerAtWork, capacity: float, seconds: float, size: str) -> dict[str, object]:
    figures: dict[str, object] = {}
    for share in OPEN_LOOPS:
        say(f"{size}: open loop at {share:g} x its capacity")
        load = ours.open_loop(max(SLOWEST, share * capacity), seconds)
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
) -> tuple[dict[str, ServerAtWork], dict[str, str]]:
    """The other servers, all running, and why some are not."""
    running: dict[str, ServerAtWork] = {}
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
def _peer(server: PeerServer, requests: str) -> Iterator[ServerAtWork]:
    try:
        server.start()
        yield ServerAtWork(server.port, requests)
    finally:
        server.stop()


@contextmanager
def _one_at_a_time(model: ModelOnStage, max_batch: int, effort: Effort) -> Iterator[ServerAtWork]:
    words = ["benchmarks.baselines.one_at_a_time", *_files(model), "--port", "{port}"]
    server = PeerServer(_folder(model, "one-at-a-time"), words, "/health", model.stage.env)
    with _peer(server, model.requests()) as contender:
        yield contender


@contextmanager
def _litserve(model: ModelOnStage, max_batch: int, effort: Effort) -> Iterator[ServerAtWork]:
    env = {**_with_packages(model.stage.env, effort), "OMP_WAIT_POLICY": "PASSIVE"}
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
def _mlflow(model: ModelOnStage, max_batch: int, effort: Effort) -> Iterator[ServerAtWork]:
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

"""How long after the log has moved the last of several replicas follows; beside it, pollers of an MLflow alias."""

from __future__ import annotations

import http.client
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from benchmarks.comparison import Budget, say
from benchmarks.serving.outcome import Effort, Found
from benchmarks.serving.stage import MeasuredReplica, ModelOnStage, PeerServer, ServingStage, replica
from registry.channels.channel import Channel
from registry.errors import LoadFailed
from registry.parallel import in_parallel

SIZE = "tiny"
REPLICAS = 4
ROUNDS = 20
VERSIONS = ("v1.0.0", "v1.0.1")
POLL_MS, SLACK_MS = 1100.0, 100.0
"""A replica looks once a second, varied by 10%; what the switch and its observation may take beside."""
_ALIAS = "production"
_TIMEOUT = 120.0
_LOOK = 0.002


def propagation(stage: ServingStage, effort: Effort) -> Found:
    """Replicas first, then the rival; both alternate between two versions."""
    model = stage.model(SIZE)
    for version in VERSIONS:
        model.create(version, offline=False)
        model.serve(version)
    rounds = effort.count(ROUNDS, 2)
    with ExitStack() as servers:
        say(f"starting {REPLICAS} replicas")
        replicas = [servers.enter_context(replica(model, f"follower-{number}")) for number in range(REPLICAS)]
        for version in VERSIONS:  # both are in memory from here on
            _follow(model, replicas, version, refresh=True)
        polled, refreshed = (
            [_follow(model, replicas, VERSIONS[number % 2], refresh=refresh) for number in range(rounds)]
            for refresh in (False, True)
        )
        get = _get_ms(model.registry.channel("production"))
    rival = _rival(model, effort, max(2, rounds // 2))
    figures = {
        "replicas": REPLICAS,
        "one GET of the log, ms": get,
        "log moved -> last replica, by polling, median and worst in ms": [statistics.median(polled), max(polled)],
        "log moved -> last replica, with refresh, median and worst in ms": [
            statistics.median(refreshed),
            max(refreshed),
        ],
        "MLflow alias set -> last server has loaded, median and worst in ms": [statistics.median(rival), max(rival)],
        "rival / ours, by polling": statistics.median(rival) / statistics.median(polled),
    }
    return Found(
        figures,
        [
            Budget("log moved -> last replica, p90", _p90(polled), "at most", round(POLL_MS + get + SLACK_MS, 1), "ms"),
            Budget("log moved -> last replica with refresh, p90", _p90(refreshed), "at most", SLACK_MS, "ms"),
        ],
    )


def _p90(values: Sequence[float]) -> float:
    return sorted(values)[int(0.9 * (len(values) - 1))]


def _follow(model: ModelOnStage, replicas: Sequence[MeasuredReplica], version: str, *, refresh: bool) -> float:
    """Move the log; milliseconds until the last replica answers by the version."""
    watches = [_Watch(one.port, "/version", lambda body: f'"version":"{version}"'.encode() in body) for one in replicas]
    model.serve(version)
    moved = time.monotonic()
    if refresh:
        in_parallel(lambda one: one.refresh(), replicas)
    return 1000 * (max(watch.seen() for watch in watches) - moved)


class _Watch:
    """Asks a server again and again, from a thread, until it gives the answer that is waited for."""

    def __init__(self, port: int, path: str, is_it: Callable[[bytes], bool]) -> None:
        self._port, self._path, self._is_it = port, path, is_it
        self._when = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def seen(self) -> float:
        """When the answer came, by `time.monotonic`.

        Raises:
            LoadFailed: it did not.
        """
        self._thread.join(_TIMEOUT)
        if not self._when:
            raise LoadFailed(f"a server did not follow within {_TIMEOUT:g} s")
        return self._when

    def _run(self) -> None:
        deadline = time.monotonic() + _TIMEOUT
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT)) as connection:
            while time.monotonic() < deadline:
                connection.request("GET", self._path)
                if self._is_it(connection.getresponse().read()):
                    self._when = time.monotonic()
                    return
                time.sleep(_LOOK)


def _get_ms(channel: Channel) -> float:
    """The median time of one read of the log's newest record."""

    def once() -> float:
        began = time.monotonic()
        channel.head()
        return 1000 * (time.monotonic() - began)

    return statistics.median(once() for _ in range(10))


# --- the rival -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Aliased:
    """Sets the alias of a registered model in MLflow."""

    model: str

    def set(self, number: str) -> None:
        from mlflow import MlflowClient

        MlflowClient().set_registered_model_alias(self.model, _ALIAS, number)


def _rival(model: ModelOnStage, effort: Effort, rounds: int) -> list[float]:
    """Milliseconds from the set alias until the last of as many servers has loaded the version."""
    alias = _Aliased(model.name)
    alias.set("1")
    words = ["benchmarks.baselines.mlflow_alias", model.name, "--alias", _ALIAS, "--port", "{port}"]
    env = {**model.stage.env, "ULORA_BACKBONES": str(model.backbone.folder.parent)}
    times = []
    with ExitStack() as servers:
        say(f"starting {REPLICAS} servers that poll an MLflow alias")
        peers = [
            PeerServer(model.stage.folder / "peers" / f"alias-{number}", words, "/version", env)
            for number in range(REPLICAS)
        ]
        for peer in peers:
            servers.callback(peer.stop)
            peer.start()
        for number in range(rounds):
            wanted = str(2 - number % 2)
            watches = [_Watch(peer.port, "/version", lambda body: body.decode() == wanted) for peer in peers]  # noqa: B023
            alias.set(wanted)
            moved = time.monotonic()
            times.append(1000 * (max(watch.seen() for watch in watches) - moved))
    return times

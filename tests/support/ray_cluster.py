"""A real cluster of Ray on this machine, of several nodes that are processes of their own.

Ray binds them to the machine's address: its drivers do not find a cluster on 127.0.0.1.

Replicas on it read releases of flavor `echo`: `open_echo` opens them in the actors, as `registry.serving.ray.opening`
opens those of the settings.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from registry.devstack.ports import HOST, Ports
from registry.serving.fleet import Heartbeat, Heartbeats, replicas
from registry.serving.follow import Live
from registry.serving.options import LiveOptions
from registry.serving.ray import RayArguments, application
from registry.store.objects import ObjectStore
from registry.versions.manifest import Manifest
from tests.support.echo_releases import Echo, EchoAnswer, Shop, load_echo, wait_until

_MARK = "ULORA_TEST_CLUSTER"
_TRIES = 5
_MEMORY = 80 * 1024 * 1024
"""Bytes of a node's object store; Ray takes no less than 75 MiB."""
_QUICK = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",
}
"""Lets Ray Serve look at the number of requests every second, not every ten, keep no token in the home folder, and ask
replicas of all nodes: the one proxy of these clusters would ask that of its own node first."""
SLOW, LONG, HANG = b"slow", b"long", b"hang"
"""Images that take a while to compute, seconds, and for ever."""
_SECONDS = {SLOW: 0.1, LONG: 2, HANG: 10**6}


class RayCluster:
    """A head and other nodes, with one core each.

    Attributes:
        env: of all its processes.
    """

    def __init__(self, env: Mapping[str, str], nodes: int) -> None:
        """Raises what Ray raises; what it has started by then is left running."""
        from ray.cluster_utils import Cluster

        self.env, self.ports = env, Ports()
        self._cluster = Cluster()
        for _ in range(nodes):
            self.add_node()

    @property
    def address(self) -> str:
        """Of the head, for drivers."""
        return str(self._cluster.address)

    @property
    def url(self) -> str:
        """Of Ray Serve's proxy."""
        return f"http://{HOST}:{self.ports.first}"

    def add_node(self) -> None:
        """A node more. Ray gives one up that takes more than 30 seconds to start, as it may on a busy machine."""
        for left in reversed(range(_TRIES)):
            before = set(_marked(self.env[_MARK]))
            try:
                with _environment(self.env):
                    self._cluster.add_node(num_cpus=1, object_store_memory=_MEMORY, include_dashboard=False)
            except Exception:  # Ray has no class of its own for it
                _kill(set(_marked(self.env[_MARK])) - before)
                if not left:
                    raise
            else:
                return

    def kill_a_node_of(self, actors: Sequence[int]) -> set[int]:
        """Kill a node that one of these processes belongs to, with everything on it, as when its machine dies. The head
        is left alone. Returns those of the processes that were on it.

        Ray's own `remove_node` leaves the actors to find out that their node is gone, so they are killed first.
        """
        nodes = {node.all_processes["raylet"][0].process.pid: node for node in self._cluster.worker_nodes}
        raylet, node = next((raylet, nodes[raylet]) for raylet in map(_parent_of, actors) if raylet in nodes)
        on_it = {each for each in _marked(self.env[_MARK]) if _parent_of(each) == raylet}
        _kill(on_it)
        self._cluster.remove_node(node, allow_graceful=False)
        return on_it & set(actors)

    def end(self) -> None:
        """End its processes."""
        self._cluster.shutdown()


@contextmanager
def ray_cluster(environment: Mapping[str, str], nodes: int = 3) -> Iterator[RayCluster]:
    """A cluster whose processes have these variables, with this process as its driver, and with Ray Serve on it.

    Nothing of it is left at the end, whatever happens: its processes are known by a variable of their own.
    """
    import ray
    from ray import serve

    mark, handled = uuid.uuid4().hex, signal.getsignal(signal.SIGTERM)
    folder = Path(mkdtemp(prefix="ray-", dir="/tmp"))  # the path of a socket has at most 107 bytes
    own = {
        _MARK: mark, "RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(Path.cwd()), **_QUICK,
    }  # fmt: skip
    cluster = None
    try:
        cluster = RayCluster({**environment, **own}, nodes)
        with _environment(cluster.env):
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
            serve.start(http_options={"host": HOST, "port": cluster.ports.first}, proxy_location="HeadOnly")
        yield cluster
    finally:
        if ray.is_initialized():  # else this would start a cluster
            serve.shutdown()
            ray.shutdown()
        if cluster:
            cluster.end()
        _kill_marked(mark)
        signal.signal(signal.SIGTERM, handled)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def echo_replicas(cluster: RayCluster, shop: Shop, **arguments: Any) -> Iterator[str]:
    """Replicas of a shop's production on a cluster; yields the URL under which Ray answers for them."""
    from ray import serve

    wanted = RayArguments.read({"deadline": 600, "health_check_seconds": 1, "shutdown_seconds": 60, **arguments})
    opened = partial(open_echo, os.environ["ULORA_STORE"], shop.model, str(shop.folder), wanted.live_options())
    serve.run(application(opened, wanted), name=shop.model, route_prefix=f"/{shop.model}")
    try:
        yield f"{cluster.url}/{shop.model}"
    finally:
        serve.delete(shop.model)


def open_echo(store: str, model: str, folder: str, options: LiveOptions) -> Live:
    """A replica of a shop, in an actor."""
    from dataclasses import replace

    shop = Shop(ObjectStore(store), model, Path(folder))
    fleet = Heartbeats(shop.store, model, "production", every=1.0)
    wanted = replace(options, find=lambda flavor: partial(_load_slow_echo, shop))
    return Live(shop.channel(), shop.versions, shop.blobs, wanted, fleet=fleet)


def heartbeats(shop: Shop) -> list[Heartbeat]:
    """Those of the replicas of production that are not silent."""
    found = replicas(shop.store, shop.model, "production")
    return [replica.heartbeat for replica in found if not replica.silent]


def all_serve(shop: Shop, generation: int, count: int) -> bool:
    """Whether so many replicas serve a generation, and no other one an older."""
    found = [one.generation for one in heartbeats(shop)]
    return len(found) == count and min(found) >= generation


def begun(shop: Shop) -> set[tuple[bytes, int]]:
    """The `LONG` images that replicas of a shop began to compute, and the process of each."""
    named = (file.name.partition(".") for file in _notes(shop).glob("*.*"))
    return {(bytes.fromhex(image), int(pid)) for image, _, pid in named}


def _load_slow_echo(shop: Shop, manifest: Manifest, files: Mapping[str, Path], **how: Any) -> Echo:
    echo = load_echo(manifest, files)
    _notes(shop).mkdir(exist_ok=True)
    return _SlowEcho(echo.version, echo.content_sha256, echo.weights, notes=_notes(shop))


def _notes(shop: Shop) -> Path:
    """Where replicas note what they begin to compute."""
    return shop.folder / "begun"


@dataclass(frozen=True)
class _SlowEcho(Echo):
    """An echo that takes its time for some images."""

    notes: Path = Path()

    def predict(self, images: bytes | list[bytes], *, target: object = None) -> EchoAnswer | list[EchoAnswer]:
        if isinstance(images, bytes):
            if images.startswith(LONG):
                (self.notes / f"{images.hex()}.{os.getpid()}").touch()
            time.sleep(next((seconds for start, seconds in _SECONDS.items() if images.startswith(start)), 0))
        return super().predict(images, target=target)


@contextmanager
def _environment(environment: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _kill_marked(mark: str) -> None:
    """Kill what is left of a cluster, and wait for its end."""
    _kill(set(_marked(mark)))
    wait_until(lambda: not _marked(mark))


def _parent_of(pid: int) -> int:
    """The parent of a process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _kill(processes: Set[int]) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _marked(mark: str) -> list[int]:
    """The processes whose environment has the mark, without this one and zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{_MARK}={mark}".encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found

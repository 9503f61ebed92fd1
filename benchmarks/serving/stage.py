"""The stage of the serving benchmarks: a real store, versions on backbones of random weights, replicas, photos.

Each size has a model of its own: `bench-tiny` on the tiny backbone that ships with this package, `bench-vit-b` on a
ViT-B/14 with weights from a seed. All versions have three targets, and requests name them in turn.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.comparison import say
from benchmarks.serving.client import write_requests
from benchmarks.serving.load import post_requests
from benchmarks.synthetic import MODULES, SyntheticBackbone, make_backbone, write_bundle
from registry.api import Registry
from registry.channels.record import Author, ChannelPosition, Record, promoted
from registry.devstack.ports import HOST
from registry.devstack.server import Server, environment_without, request
from registry.devstack.stack import Stack
from registry.errors import LoadFailed, UloraError, install_hint
from registry.names import VersionName
from registry.settings import Settings
from registry.usecases.options import CreateOptions
from registry.versions.bundle import ReleaseNotes

CHANNEL = "production"
TARGETS = ("apple", "grape", "maize")
RANK = 16
SIDE = 256
"""Pixels of the side of a photo; it is a JPEG of about 15 kB."""
_AUTHOR = Author("a benchmark")
_SECONDS = 60.0


@dataclass
class ServingStage:
    """A store, and what was made in it.

    Attributes:
        folder: for everything; the caller deletes it.
        env: the environment of every process that uses the store.
    """

    folder: Path
    stack: Stack
    env: dict[str, str]
    _models: dict[str, ModelOnStage] = field(default_factory=dict)

    def model(self, size: str) -> ModelOnStage:
        """The model of a size, `tiny` or `vit-b`; made when first asked for."""
        if size not in self._models:
            say(f"making a backbone of size {size}, and putting it into the store")
            backbone = make_backbone(self.folder / "backbones", size)
            registry = Registry(settings=Settings.load(model=f"bench-{size}"))
            registry.add_backbone(str(backbone.folder), name=backbone.ref.name)
            self._models[size] = ModelOnStage(self, size, backbone, registry)
        return self._models[size]

    @cached_property
    def photos(self) -> list[bytes]:
        """Crops of real photos as JPEG files."""
        return photos()


@dataclass
class ModelOnStage:
    """A model with versions on one backbone."""

    stage: ServingStage
    size: str
    backbone: SyntheticBackbone
    registry: Registry
    bundles: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the model."""
        return self.registry.model

    def create(self, version: str, *, offline: bool = True) -> None:
        """Make a version, unless it is there; `offline`: not in MLflow."""
        if version in self.bundles:
            return
        folder = self.stage.folder / "bundles" / self.size / version
        modules = MODULES["q,v"][self.backbone.ref.family]
        write_bundle(folder, self.backbone, targets=TARGETS, modules=modules, rank=RANK, seed=len(self.bundles))
        options = CreateOptions(release_notes=ReleaseNotes("random weights"))
        self.registry.create(version, folder, options, offline=offline)
        self.bundles[version] = folder

    def serve(self, version: str) -> Record:
        """Make a version the channel's stable one; returns the record, which is in the log."""
        channel = self.registry.channel(CHANNEL)
        pointer = self.registry.bindings.get(VersionName.parse(version)).pointer
        record = promoted(ChannelPosition(self.name, CHANNEL, channel.head()), pointer, _AUTHOR, None)
        channel.commit(record)
        return record

    def requests(self, name: str = "requests") -> str:
        """The file of requests for predictions of all photos."""
        path = self.stage.folder / f"{name}-{self.size}.http"
        if not path.is_file():
            bodies = self.stage.photos
            targets = [TARGETS[number % len(TARGETS)] for number in range(len(bodies))]
            write_requests(
                path,
                [
                    post_requests(f"/predict?target={target}", [body], {"Content-Type": "image/jpeg"})[0]
                    for body, target in zip(bodies, targets, strict=True)
                ],
            )
        return str(path)

    def asked(self) -> list[tuple[bytes, str]]:
        """Each photo with the target that its request names."""
        return [(photo, TARGETS[number % len(TARGETS)]) for number, photo in enumerate(self.stage.photos)]


class MeasuredReplica(Server):
    """`ulora serve` on a model's channel, in a process of its own, with a cache of its own."""

    name: ClassVar[str] = "replica"
    failure: ClassVar[type[UloraError]] = LoadFailed

    def __init__(self, model: ModelOnStage, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self._model = model
        self._options = options

    @property
    def env(self) -> dict[str, str]:
        """Nothing: clients need its address only."""
        return {}

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid if self._process else 0

    def health(self) -> dict[str, Any]:
        """Its `/health`."""
        return dict(ask_json(f"{self.url}/health"))

    def refresh(self) -> None:
        """Let it look at the log."""
        post(f"{self.url}/-/refresh")

    def resident_bytes(self) -> int:
        """Its resident memory now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))

    def processor_seconds(self) -> float:
        """What its process has taken of all cores so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _command(self) -> list[str]:
        return [
            sys.executable, "-m", "registry", "serve", "--channel", CHANNEL, "--host", HOST, "--port", str(self.port),
            *self._options,
        ]  # fmt: skip

    def _child_env(self) -> dict[str, str]:
        own = {"ULORA_MODEL": self._model.name, "ULORA_CACHE": str(self.folder / "cache")}
        return self._model.stage.env | own | {"ULORA_INSTANCE": self._instance}

    def _answers(self) -> bool:
        return self._repeats_instance("/health")


class PeerServer(Server):
    """Another way to serve, in a process of its own. It is ready when a path is answered with 200."""

    name: ClassVar[str] = "peer"
    failure: ClassVar[type[UloraError]] = LoadFailed

    def __init__(self, folder: Path, words: Sequence[str], ready: str, env: Mapping[str, str]) -> None:
        """Args:
        words: of the module and its arguments; `{port}` becomes the port.
        """
        super().__init__(folder)
        self._words, self._ready, self._env = words, ready, env

    @property
    def env(self) -> dict[str, str]:
        """Nothing: clients need its address only."""
        return {}

    def _command(self) -> list[str]:
        return [sys.executable, "-m", *(word.replace("{port}", str(self.port)) for word in self._words)]

    def _child_env(self) -> dict[str, str]:
        return dict(self._env)

    def _answers(self) -> bool:
        reply = request(self.port, "GET", self._ready)
        return reply is not None and reply.status == 200


@contextmanager
def on_stage(*, with_mlflow: bool = False) -> Iterator[ServingStage]:
    """A stage in a temporary folder, with an S3 server, and an MLflow server if that is asked for."""
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="ulora-bench-"))).resolve()
        stack = Stack(folder / "stack")
        ending.callback(stack.stop)
        stack.s3.start()
        exports = {**stack.s3.env, "ULORA_STORE": f"s3://{stack.s3.bucket}/ulora"}
        if with_mlflow:
            say("starting MLflow")
            stack.mlflow.start()
            exports |= stack.mlflow.env
        config = folder / "ulora.toml"
        config.touch()
        own = {
            "ULORA_CONFIG": str(config), "ULORA_CACHE": str(folder / "cache"), "ULORA_WHO": "a benchmark",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "HF_HUB_OFFLINE": "1",
            "NO_PROXY": f"{HOST},localhost", "no_proxy": f"{HOST},localhost",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        }  # fmt: skip
        env = environment_without("AWS_", "ULORA_", "MLFLOW_", "OMP_") | own | exports
        ending.enter_context(_environment(env))
        Registry(settings=Settings.load()).store.initialise()
        yield ServingStage(folder, stack, env)


@contextmanager
def replica(model: ModelOnStage, name: str, *options: str) -> Iterator[MeasuredReplica]:
    """A replica that is ready; ended with the block."""
    server = MeasuredReplica(model, model.stage.folder / "replicas" / f"{model.size}-{name}", *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def ask_json(url: str) -> Any:
    """A JSON answer."""
    with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310  an address of this benchmark
        return json.load(answer)


def post(url: str) -> None:
    """POST nothing."""
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=_SECONDS):  # noqa: S310  as above
        pass


def photos(count: int = 96) -> list[bytes]:
    """Crops of real photos, which ship with scikit-image, as JPEG files of `SIDE` pixels."""
    import numpy as np
    from PIL import Image

    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise LoadFailed("scikit-image is not installed", hint=install_hint("demo"))
    random, found = np.random.default_rng(12), []
    names = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg")
    for number in range(count):
        with Image.open(Path(spec.origin).parent / "data" / names[number % len(names)]) as photo:
            colour = photo.convert("RGB")
        side = int(random.integers(200, min(colour.size)))
        left, top = (int(random.integers(0, length - side + 1)) for length in colour.size)
        out = io.BytesIO()
        colour.resize((SIDE, SIDE), box=(left, top, left + side, top + side)).save(out, "JPEG", quality=90)
        found.append(out.getvalue())
    return found


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)

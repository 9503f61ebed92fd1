"""Fixtures for all tests: real servers, and an environment that holds nothing of the machine's own.

Every pytest-xdist worker starts an S3 server of its own when a test asks for one (about a second). MLflow starts
slowly, so a run with workers has one for all, started by the process that starts the workers.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import botocore.session
import httpx._transports.default as httpx_transports
import pytest
from hypothesis import settings

from registry.devstack.mlflow_server import MlflowServer
from registry.devstack.s3_server import S3Server
from registry.errors import UloraError
from tests.servers import dead_address as dead
from tests.servers.proxy import Proxy

# Before torch is imported: workers share few cores, and more threads than cores make every one of them slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Else each of the many processes that tests start would compile all modules of the project for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A run that a script starts in the background ignores SIGINT, and so would its children: some tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The duration of an example depends on the other work of the machine. The same examples in every run: what fails is the
# fault of the change that is tested. `pytest --hypothesis-profile explore` looks for others.
settings.register_profile("ulora", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("ulora")

# Every store opens a session of its own, and every session would parse botocore's description of S3 again.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)
# Every client of HTTP would read the certificates of all authorities again, in 0.08 s.
httpx_transports.create_ssl_context = functools.cache(httpx_transports.create_ssl_context)  # type: ignore[attr-defined]

pytest_plugins = ["tests.faults.plugin", "tests.running"]

_ISOLATED = ("AWS_", "ULORA_", "MLFLOW_", "HF_")
_SHARED_MLFLOW = pytest.StashKey["SharedMlflow"]()
_MLFLOW_SECONDS = 600
"""How long a worker waits for the MLflow server of its run; a guard against a hang, on a busy machine too."""


@dataclass(frozen=True)
class TrackingServer:
    """The MLflow server of this run; tests share it, so they use the `model` fixture's name and do not stop it."""

    url: str


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--catalog postgresql`: MLflow's server keeps what it is told in PostgreSQL."""
    parser.addoption("--catalog", choices=("sqlite", "postgresql"), default="sqlite", help="what is behind MLflow")


def pytest_configure(config: pytest.Config) -> None:
    """End a run for PostgreSQL where that is not installed."""
    from tests.servers.postgresql import program

    if config.getoption("catalog") == "postgresql" and not program("initdb"):
        pytest.exit("skipped: PostgreSQL is not installed", returncode=0)


def mlflow_server_of(config: pytest.Config, folder: Path) -> MlflowServer:
    """The MLflow server of a run, not started."""
    if config.getoption("catalog") == "sqlite":
        return MlflowServer(folder)
    from tests.servers.postgresql import MlflowOnPostgresql

    return MlflowOnPostgresql(folder)


class SharedMlflow:
    """The MLflow server that all workers of a run share, started by the process that starts the workers.

    The workers start meanwhile. Its address is known once it is ready: then a JSON file holds it, or the error.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._folder = TemporaryDirectory(prefix="ulora-tests-")
        self._server = mlflow_server_of(config, Path(self._folder.name) / "mlflow")
        self.answer = Path(self._folder.name) / "started.json"
        self._thread = threading.Thread(target=self._start, name="shared-mlflow", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the server, however far its start is, and remove its folder."""
        self._server.kill()
        self._thread.join()
        self._server.kill()
        self._folder.cleanup()

    def _start(self) -> None:
        try:
            started = {"url": self._server.start().url}
        except UloraError as error:
            started = {"error": str(error)}
        scratch = self.answer.with_suffix(".new")
        scratch.write_text(json.dumps(started))
        scratch.rename(self.answer)

    @staticmethod
    def wait_for_url(answer: Path) -> str:
        """Its address, read by a worker."""
        deadline = time.monotonic() + _MLFLOW_SECONDS
        while not answer.exists():
            assert time.monotonic() < deadline, "the MLflow server of this run did not start"
            time.sleep(0.1)
        started = json.loads(answer.read_text())
        assert "url" in started, started
        return str(started["url"])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Before a pytest-xdist worker starts: start the shared MLflow server, and say where its address will be."""
    stash = node.config.stash
    if _SHARED_MLFLOW not in stash:
        stash[_SHARED_MLFLOW] = SharedMlflow(node.config)
    node.workerinput["mlflow"] = str(stash[_SHARED_MLFLOW].answer)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first; otherwise a run ends with one worker busy and the others idle."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


def pytest_unconfigure(config: pytest.Config) -> None:
    """At the end of the run: stop the shared MLflow server."""
    if _SHARED_MLFLOW in config.stash:
        config.stash[_SHARED_MLFLOW].end()


@pytest.fixture(autouse=True)
def _isolated_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Remove credentials, settings, caches and tracking server of the person who runs the tests; no network."""
    for name in os.environ:
        if name.startswith(_ISOLATED):
            monkeypatch.delenv(name)
    quiet = {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "XDG_CACHE_HOME": str(tmp_path_factory.getbasetemp() / "cache"),
    }
    for name, value in quiet.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """This worker's S3 server, shared by its tests: `.url`, `.bucket`, `.access_key`, `.secret_key`, `.env`."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture(scope="session")
def mlflow_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    """The run's MLflow server, shared by all tests: `.url`."""
    shared = getattr(request.config, "workerinput", {}).get("mlflow")
    if shared:
        yield TrackingServer(SharedMlflow.wait_for_url(Path(shared)))
        return
    server = mlflow_server_of(request.config, tmp_path_factory.mktemp("mlflow"))
    try:
        yield TrackingServer(server.start().url)
    finally:
        server.kill()


@pytest.fixture
def s3_env(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The S3 server's credentials and address, set in the environment."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return s3.env


@pytest.fixture
def store_url(s3: S3Server, s3_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix of the test's own, `s3://bucket/<uuid>`, set in the environment with its credentials."""
    url = f"s3://{s3.bucket}/{uuid.uuid4().hex}"
    monkeypatch.setenv("ULORA_STORE", url)
    return url


@pytest.fixture
def tracking_uri(mlflow_server: TrackingServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The MLflow server's address, set in the environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    return mlflow_server.url


@pytest.fixture
def dead_address() -> Iterator[str]:
    """An address, `http://127.0.0.1:PORT`, that refuses every connection for as long as the test runs."""
    with dead.dead_address() as address:
        yield address


@pytest.fixture
def model() -> str:
    """A model's name that no other test uses."""
    return f"model-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    """A TCP proxy in front of the S3 server; see `tests.servers.proxy` for its faults."""
    with Proxy(s3.port) as proxy:
        yield proxy


@pytest.fixture
def mlflow_proxy(mlflow_server: TrackingServer) -> Iterator[Proxy]:
    """A TCP proxy in front of the MLflow server."""
    with Proxy(int(mlflow_server.url.rpartition(":")[2])) as proxy:
        yield proxy

"""Another process takes a server's port: at its first start, at another one, just before and just after the look.

The other process answers 200 to everything, so a server that asks for no more than that would be taken for started.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from registry.devstack.mlflow_server import MlflowServer
from registry.devstack.replica_server import ReplicaServer
from registry.devstack.s3_server import S3Server
from registry.devstack.server import Server, request
from registry.errors import StoreUnreachable
from tests.servers.yes_server import YesServer
from tests.support.registries import create, open_registry

MakeServer = Callable[[], Server]


class OtherProcesses:
    """Take ports that a server has chosen, after it looked whether they are free and before its process begins."""

    def __init__(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        """How many more starts are to meet a taken port."""
        self.servers: list[YesServer] = []
        self._ending = ExitStack()
        command = server._command

        def take_and_return_command() -> list[str]:
            if self.times:
                self.times -= 1
                self.take(server.port)
            return command()

        monkeypatch.setattr(server, "_command", take_and_return_command)

    def take(self, port: int) -> None:
        """Answer 200 to everything on a port."""
        self.servers.append(self._ending.enter_context(YesServer(port)))

    def leave(self) -> None:
        """Free all the ports."""
        self._ending.close()


@pytest.fixture(params=["s3", *(pytest.param(each, marks=pytest.mark.acceptance) for each in ("mlflow", "replica"))])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server of each class, which is not started."""
    make: dict[str, MakeServer] = {
        "s3": lambda: S3Server(tmp_path / "s3"),
        "mlflow": lambda: MlflowServer(tmp_path / "mlflow"),
        "replica": lambda: ReplicaServer(tmp_path / "serve", request.getfixturevalue("released_env")),
    }
    server = make[request.param]()
    yield server
    server.kill()


@pytest.fixture
def released_env(
    store_url: str, s3_env: dict[str, str], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The environment of a replica, with a version in production."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    create(registry, "v1.0.0", tmp_path)
    registry.promote("v1.0.0", "production")
    return {**os.environ, "ULORA_MODEL": model, "ULORA_CACHE": str(tmp_path / "replica-cache")}


@pytest.fixture
def others(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtherProcesses]:
    """Nothing is taken before `times` is set or `take` is called."""
    others = OtherProcesses(server, monkeypatch)
    yield others
    others.leave()


@pytest.mark.acceptance
def test_a_first_start_ends_on_a_port_of_its_own(server: Server, others: OtherProcesses) -> None:
    others.times = 1
    server.start()
    (other,) = others.servers
    assert server.port != other.port
    reply = request(server.port, "GET", "/health")
    assert reply is not None
    if not isinstance(server, S3Server):
        assert reply.instance == server._instance


@pytest.mark.acceptance
def test_a_port_that_is_free_at_the_look_was_still_lost(
    server: Server, others: OtherProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = server.kill

    def leave_and_kill() -> None:
        others.leave()
        kill()

    monkeypatch.setattr(server, "kill", leave_and_kill)
    others.times = 1
    server.start()
    (other,) = others.servers
    assert server.port != other.port


@pytest.mark.acceptance
def test_a_restart_fails_clearly_while_its_port_is_taken(server: Server, others: OtherProcesses) -> None:
    port = server.start().port
    server.kill()

    others.take(port)
    with pytest.raises(server.failure, match=rf"can't start again: another process has taken port {port}") as failed:
        server.start()
    assert failed.value.hint == "stop the process that listens there"
    assert not server.running

    others.leave()
    assert server.start().port == port
    assert server.running


@pytest.mark.acceptance
def test_a_restart_that_loses_its_port_after_the_look_fails(server: Server, others: OtherProcesses) -> None:
    port = server.start().port
    server.kill()

    others.times = 1
    with pytest.raises(server.failure, match=rf"another process has taken port {port}"):
        server.start()
    assert not server.running


@pytest.mark.acceptance
def test_a_start_whose_every_choice_is_taken_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = S3Server(tmp_path)
    others = OtherProcesses(server, monkeypatch)
    others.times = 1000
    try:
        with pytest.raises(StoreUnreachable, match="another process has taken port"):
            server.start()
    finally:
        others.leave()
    assert not server.running
    assert len({other.port for other in others.servers}) == len(others.servers) > 1


@pytest.mark.acceptance
@pytest.mark.parametrize("number", range(10))
def test_each_port_of_the_s3_server_may_be_taken(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = S3Server(tmp_path)
    others = OtherProcesses(server, monkeypatch)

    def take_one() -> list[str]:
        if not others.servers:
            assert server._ports
            others.take(server._ports.numbers[number])
        return command()

    command = server._command
    monkeypatch.setattr(server, "_command", take_one)
    try:
        server.start()
        assert others.servers[0].port not in range(server.port, server.port + 5)
    finally:
        others.leave()
        server.kill()

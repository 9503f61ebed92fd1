"""The small parts of the embedded stack that need no server."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from registry.devstack import servers
from registry.devstack.servers import MlflowServer, S3Server, Stack, free_port
from registry.errors import MissingDependency


def test_free_ports_can_be_bound_and_so_can_those_above_them() -> None:
    first = free_port(count=5, offset=10_000)
    for port in [*range(first, first + 5), *range(first + 10_000, first + 10_005)]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_port_that_is_listened_on_is_not_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not servers._is_free(taken.getsockname()[1])


def test_a_program_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(MissingDependency, match="no-such-program") as missing:
        servers._program("no-such-program", hint="pip install it")
    assert missing.value.hint == "pip install it"


def test_every_s3_server_has_keys_of_its_own(tmp_path: Path) -> None:
    first, second = S3Server(tmp_path), S3Server(tmp_path)
    assert {first.access_key, first.secret_key}.isdisjoint({second.access_key, second.secret_key})


def test_a_server_that_never_started_can_be_stopped(tmp_path: Path) -> None:
    for server in (S3Server(tmp_path), MlflowServer(tmp_path)):
        server.stop()
        server.kill()
        assert not server.running


def test_children_inherit_no_settings_of_the_person_who_starts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = {"AWS_SESSION_TOKEN", "MLFLOW_BACKEND_STORE_URI", "S3_BUCKET", "WEED_MASTER_PORT"}
    for name in theirs:
        monkeypatch.setenv(name, "mine")
    stack = Stack(tmp_path)
    assert theirs & set(stack.s3._child_env()) == {"MLFLOW_BACKEND_STORE_URI"}
    assert "MLFLOW_BACKEND_STORE_URI" not in stack.mlflow._child_env()


def test_telemetry_is_off_in_the_children(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    assert "-master.telemetry=false" in stack.s3._command()
    assert stack.mlflow._child_env()["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert stack.mlflow._child_env()["DO_NOT_TRACK"] == "true"

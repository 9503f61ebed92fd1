"""The small parts of the embedded stack that need no server."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from registry.devstack import servers
from registry.devstack.servers import MlflowServer, S3Server, Stack, free_port
from registry.errors import BadSetting, MissingDependency, NotNow
from tests.support.rights import no_right_to_write


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


def test_a_folder_is_one_stacks_at_a_time(tmp_path: Path) -> None:
    first = MlflowServer(tmp_path / "mlflow")
    try:
        first.launch()
        with pytest.raises(NotNow, match="another stack uses"):
            Stack(tmp_path).start()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow"]
        first.launch()  # runs already: nothing to do
        first.kill()
        first.launch()
        assert first.running
        first.kill()
        second = MlflowServer(tmp_path / "mlflow")
        second.launch()
        second.kill()
    finally:
        first.kill()


def test_a_folder_is_held_by_the_server_itself_not_by_who_started_it(tmp_path: Path) -> None:
    server = MlflowServer(tmp_path)
    server.launch()
    try:
        assert server._lock is not None
        server._lock.close()  # as the end of the process that started it does
        with pytest.raises(NotNow):
            MlflowServer(tmp_path).launch()
    finally:
        server.kill()
    server.launch()
    server.kill()


@pytest.mark.parametrize("inside", ["", "below"])
def test_a_file_can_not_be_a_servers_folder(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadSetting, match="can't hold a server's data"):
        MlflowServer(tmp_path / "file" / inside).launch()
    with pytest.raises(BadSetting, match="can't hold a server's data"):
        Stack(tmp_path / "file" / inside).start()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    with no_right_to_write(folder), pytest.raises(BadSetting, match=r"theirs.* can't hold a server's data"):
        MlflowServer(folder / "mine").launch()


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

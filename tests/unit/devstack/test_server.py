"""What a server promises at its start: whose folder and whose port it is, and that its own process answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.devstack.mlflow_server import MlflowServer
from registry.devstack.replica_server import ReplicaServer
from registry.devstack.s3_server import S3Server
from registry.devstack.server import Server
from registry.devstack.stack import Stack
from registry.errors import BadSetting, CatalogUnreachable, NotNow, StoreUnreachable, UloraError
from tests.servers.without_conditions import ForgetfulServer
from tests.servers.yes_server import YesServer
from tests.support.unwritable_folder import no_right_to_write

# A process whose child kills it before it gives the right answer: the port answers, and the process has ended.
_ANSWER_FOR_A_DEAD_PARENT = """
import os, signal, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
parent = os.getpid()
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        os.kill(parent, signal.SIGKILL)
        while os.getppid() == parent:
            time.sleep(0.01)
        self.send_response(200)
        self.send_header("X-Ulora-Instance", sys.argv[2])
        self.end_headers()
if os.fork():
    time.sleep(300)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def servers(folder: Path) -> list[Server]:
    """One of each class."""
    return [S3Server(folder / "s3"), MlflowServer(folder / "mlflow"), ReplicaServer(folder / "serve", {})]


@pytest.fixture(params=[0, 1, 2], ids=["s3", "mlflow", "replica"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """One of each class, which is not started."""
    server = servers(tmp_path)[request.param]
    yield server
    server.kill()


def test_a_server_has_no_address_before_it_is_started(server: Server) -> None:
    with pytest.raises(UloraError, match="no port before it is started"):
        _ = server.url


def test_the_status_200_of_another_process_is_not_ready(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead(server, "import time; time.sleep(300)", monkeypatch)
    server.launch()
    with YesServer(server.port) as other:
        with pytest.raises(server.failure, match="did not answer in time: another process has taken port") as failed:
            server.wait_ready(seconds=0.5)
        assert other.requests
        assert str(other.port) in str(failed.value)
    assert not server.running


def test_a_store_that_accepts_every_signature_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = S3Server(tmp_path)
    run_instead(server, "import time; time.sleep(300)", monkeypatch)
    server.launch()
    with ForgetfulServer(server.port) as other, pytest.raises(StoreUnreachable, match="taken port"):
        server.wait_ready(seconds=0.5)
    assert other.objects == {f"/{server.bucket}/.ready": b"ready"}


def test_a_process_that_ended_is_never_ready(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead(server, "import sys; print('out of luck', flush=True); sys.exit(3)", monkeypatch)
    with pytest.raises(server.failure, match=r"(?s)ended with exit status 3 while it started; .*out of luck"):
        server.start()
    assert not server.running


def test_a_process_that_ends_with_its_first_answer_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MlflowServer(tmp_path)
    program = [sys.executable, "-c", _ANSWER_FOR_A_DEAD_PARENT]
    monkeypatch.setattr(server, "_command", lambda: [*program, str(server.port), server._instance])
    with pytest.raises(CatalogUnreachable, match="ended with exit status -9 while it started"):
        server.start()
    assert server._ports is not None
    assert server._ports.taken(seconds=300) == [], "its child is gone too"


def test_how_a_server_ended_is_told_unless_it_was_asked_to(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.why_ended() == ""
    run_instead(server, "import sys; print('out of luck', flush=True); sys.exit(3)", monkeypatch)
    server.launch()
    told = server.why_ended(seconds=60)
    assert f"the {server.name} server ended with exit status 3" in told
    assert "out of luck" in told
    run_instead(server, "import time; time.sleep(300)", monkeypatch)
    server.launch()
    assert server.why_ended() == ""
    server.kill()
    assert server.why_ended() == ""


def run_instead(server: Server, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server's process run a Python program."""
    monkeypatch.setattr(server, "_command", lambda: [sys.executable, "-c", program])


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


def test_a_folder_is_held_by_the_server_not_by_who_started_it(tmp_path: Path) -> None:
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
def test_a_file_cannot_be_a_servers_folder(tmp_path: Path, inside: str) -> None:
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


def test_children_inherit_no_settings_of_who_starts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = {"AWS_SESSION_TOKEN", "MLFLOW_BACKEND_STORE_URI", "S3_BUCKET", "WEED_MASTER_PORT"}
    for name in theirs:
        monkeypatch.setenv(name, "mine")
    stack = Stack(tmp_path)
    assert theirs & set(stack.s3._child_env()) == {"MLFLOW_BACKEND_STORE_URI"}
    assert "MLFLOW_BACKEND_STORE_URI" not in stack.mlflow._child_env()


def test_telemetry_is_off_in_the_children(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    stack.s3._choose_ports()
    assert "-master.telemetry=false" in stack.s3._command()
    assert stack.mlflow._child_env()["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert stack.mlflow._child_env()["DO_NOT_TRACK"] == "true"

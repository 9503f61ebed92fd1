"""What a server promises at its start: whose folder and whose port it is, and that its own process answers."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event, Thread

import pytest

from registry.devstack.mlflow_server import MlflowServer
from registry.devstack.replica_server import ReplicaServer
from registry.devstack.s3_server import S3Server
from registry.devstack.server import Server, request
from registry.devstack.stack import Stack
from registry.errors import BadSetting, CatalogUnreachable, MissingDependency, NotNow, StoreUnreachable, UloraError
from tests.servers.loopback import Loopback
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

# Its first process finds the port taken, by a socket that is gone when one looks afterwards; the next one answers.
_LOSE_THE_PORT_ONCE = """
import pathlib, socket, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("X-Ulora-Instance", sys.argv[2])
        self.end_headers()
address = ("127.0.0.1", int(sys.argv[1]))
if not pathlib.Path("lost").exists():
    pathlib.Path("lost").write_text(sys.argv[1])
    other = socket.create_server(address)
HTTPServer(address, Handler).serve_forever()
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


@pytest.mark.acceptance
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


def test_a_store_that_alternates_two_answers_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = S3Server(tmp_path)
    run_instead(server, "import time; time.sleep(300)", monkeypatch)
    server.launch()
    answers: list[int] = []

    class Alternates(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answers.append(403 if len(answers) % 2 else 200)
            self.send_response(answers[-1])
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with Loopback(Alternates, server.port), pytest.raises(StoreUnreachable, match="taken port"):
        server.wait_ready(seconds=0.5)
    assert len(answers) > 4


def test_a_port_that_was_taken_and_left_again_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = MlflowServer(tmp_path)
    program = [sys.executable, "-c", _LOSE_THE_PORT_ONCE]
    monkeypatch.setattr(server, "_command", lambda: [*program, str(server.port), server._instance])
    try:
        server.start()
        assert server.port != int((tmp_path / "lost").read_text())
        port = server.port
        server.kill()
        # The address is known now: clients have it, so it is never replaced, and its earlier log doesn't count.
        (tmp_path / "lost").unlink()
        with pytest.raises(CatalogUnreachable, match=r"(?s)ended with exit status 1 .*[Aa]ddress already in use"):
            server.start()
        assert server.start().port == port
    finally:
        server.kill()


def test_an_old_line_of_the_log_does_not_start_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = MlflowServer(tmp_path)
    server.log.write_text("bind: address already in use\n")
    run_instead(server, "print('once', flush=True); raise SystemExit(3)", monkeypatch)
    with pytest.raises(CatalogUnreachable, match="ended with exit status 3"):
        server.start()
    assert server.log.read_text().count("once") == 1


def test_a_request_is_bounded_as_a_whole() -> None:
    done = Event()

    def send_slowly(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Ulora-Instance: it\r\nX-Slow: ")
            while not done.wait(0.05):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = Thread(target=send_slowly, args=(listener,))
        sender.start()
        answers: list[object] = []
        port = listener.getsockname()[1]
        asker = Thread(target=lambda: answers.append(request(port, "GET", "/", seconds=0.3)), daemon=True)
        asker.start()
        asker.join(60)
        done.set()
        sender.join()
    assert answers == [None]


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


def test_a_log_that_cannot_be_opened_leaves_the_folder_free(tmp_path: Path) -> None:
    server, other = MlflowServer(tmp_path), MlflowServer(tmp_path)
    server.log.mkdir()
    with pytest.raises(BadSetting, match="can't hold a server's data"):
        server.launch()
    server.log.rmdir()
    try:
        other.launch()
        assert other.running
    finally:
        other.kill()


def test_a_missing_program_leaves_nothing_running(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_command", lambda: ["/no/such/weed"])
    with pytest.raises(MissingDependency, match="program '/no/such/weed' can't be run: No such file"):
        server.launch()
    assert not server.running
    run_instead(server, "import time; time.sleep(300)", monkeypatch)
    server.launch()
    assert server.running


def test_a_server_without_its_watchdog_is_ended(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(300)"
    run_instead(server, program, monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="program 'sh' can't be run"):
        server.launch()
    assert not server.running
    assert server._lock is None
    listed = subprocess.run(["/bin/ps", "-A", "-ww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert program not in listed


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

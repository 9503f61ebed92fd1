"""A server process of the embedded stack: start, readiness, stop, kill, and start again on the same port and data.

Each server is a process group of its own with its data and its log in one folder, which no other server can use until
it is gone. A watchdog, a `sh` that waits for the end of a pipe, kills the group when this process dies for whatever
reason, so nothing is left running; it works the same on Linux and macOS and from any thread.

A server is ready only when its process lives and an answer proves to come from it; a status of 200 alone is no proof,
because another program may have taken the port. SeaweedFS proves it by its keys: it accepts a signature made with the
secret key and refuses another one. MLflow and `ulora serve` repeat, in the header `X-Ulora-Instance` of their answers,
a random text that they were given at their start.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import re
import secrets
import signal
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, Self

from registry.devstack.ports import HOST, Ports
from registry.errors import BadSetting, MissingDependency, NotNow, UloraError, disk_errors
from registry.machine.programs import DEVNULL, PIPE, Process, StillRuns, start

INSTANCE_HEADER = "X-Ulora-Instance"
_START_SECONDS = 600.0
_START_TRIES = 5
_STOP_SECONDS = 10.0
_TAKEN_SECONDS = 1.0
"""How long a child of an ended process, which can't be waited for, may still hold a port."""
_POLL_SECONDS = 0.02
_LOG_TAIL_BYTES = 2000
_REQUEST_SECONDS = 5.0
_ADDRESS_IN_USE = re.compile(
    rb"address already in use|cannot assign requested address|port allocation failed|port is in use", re.IGNORECASE
)
"""How the servers' logs say that another process had a port."""
_WATCHDOG = 'read -r _; kill -s KILL -- "-$1"'


class Server(ABC):
    """A server process with its data in one folder; `start` after `stop` or `kill` finds the same port and data.

    Attributes:
        folder: holds its data and its log.
        wanted_port: where it listens if nobody else does; None for any port.
    """

    name: ClassVar[str]
    failure: ClassVar[type[UloraError]]
    port_count: ClassVar[int] = 1
    port_offset: ClassVar[int] = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.wanted_port: int | None = None
        self._ports: Ports | None = None
        self._is_address_known = self._is_ready = False
        self._instance = ""
        self._process: Process[bytes] | None = None
        self._watchdog: Process[bytes] | None = None
        self._lock: BinaryIO | None = None
        self._log_start = 0

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1. It is final once the server has been ready.

        Raises:
            UloraError: it was never started.
        """
        if self._ports is None:
            raise UloraError(f"the {self.name} server has no port before it is started")
        return self._ports.first

    @property
    def url(self) -> str:
        """Its address, without a slash at the end.

        Raises:
            UloraError: it was never started.
        """
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
            StoreUnreachable, CatalogUnreachable, LoadFailed: it did not come up; the message ends with the log's tail.
            NotNow, BadSetting, MissingDependency: see `launch`.
        """
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start the process without waiting for it; see `wait_ready`. When that fails, no process and no lock is left.

        Its ports are new ones until it has been ready once, and the same ever after: clients know them.

        Raises:
            NotNow: another server uses the folder.
            BadSetting: the folder can't be made or written.
            MissingDependency: its program, or `sh`, is not installed or can't be run.
            StoreUnreachable, CatalogUnreachable, LoadFailed: another process has taken its ports meanwhile.
        """
        if self.running:
            return
        self._end(signal.SIGKILL)
        self._choose_ports()
        self._instance, self._is_ready = secrets.token_hex(16), False
        command, env = self._command(), self._child_env()
        try:
            with _folder_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = _lock(self.folder)
                self._prepare_folder()
                log = self.log.open("ab")
                self._log_start = log.tell()
            with log, ThreadPoolExecutor(1) as thread:
                # A signal's exception comes up in the main thread only, where it could lose a process just made.
                thread.submit(self._spawn, command, env, log, self._lock).result()
        except BaseException:
            self.kill()
            raise

    def wait_ready(self, seconds: float = _START_SECONDS) -> None:
        """Return when it answers; one that does not is ended.

        Until it has been ready once, a server whose port another process has taken is started on another one.

        Raises:
            StoreUnreachable, CatalogUnreachable, LoadFailed: it ended, did not answer in time, or found no port.
        """
        deadline = time.monotonic() + seconds
        for attempt in range(_START_TRIES):
            if attempt:
                self.launch()
            problem = self._wait_for_answer(deadline)
            if problem is None:
                self._is_address_known = self._is_ready = True
                return
            tail = self._log_tail()
            self.kill()
            taken = self._ports.taken(_TAKEN_SECONDS) if self._ports else []
            # The other process may have left the port again: the log says then that it was taken.
            is_lost = bool(taken) or self._met_taken_port()
            if not is_lost or self._is_address_known or time.monotonic() > deadline:
                break
        raise self.failure(
            f"the {self.name} server {problem}{_says_taken(taken)}; its log ends:\n{tail}",
            hint=_STOP_THE_OTHER if taken else f"see {self.log}",
        )

    def stop(self) -> None:
        """End it by SIGTERM, after some seconds by SIGKILL, and return when it is gone."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL) and return when it is gone."""
        self._end(signal.SIGKILL)

    def why_ended(self, seconds: float = 0.0) -> str:
        """How it ended without being asked to, with its log's tail; empty if it still runs, or was not to run.

        Args:
            seconds: how long to wait for the end of a process that may be ending right now.
        """
        process = self._process
        if process is None:
            return ""
        try:
            code = process.wait(seconds)
        except StillRuns:
            return ""
        return f"the {self.name} server ended with exit status {code}; its log ends:\n{self._log_tail()}"

    def _choose_ports(self) -> None:
        if self._ports is None or not self._is_address_known:
            self._ports = Ports(self.port_count, self.port_offset, self.wanted_port)
        elif taken := self._ports.taken(_TAKEN_SECONDS):
            raise self.failure(f"the {self.name} server can't start again{_says_taken(taken)}", hint=_STOP_THE_OTHER)

    def _spawn(self, command: list[str], env: Mapping[str, str], log: BinaryIO, lock: BinaryIO) -> None:
        # It holds the lock too: should this process be killed, the folder is free when the server is really gone.
        try:
            self._process = start(
                command, env=dict(env), cwd=self.folder, stdin=DEVNULL, stdout=log, stderr=log,
                process_group=0, pass_fds=[lock.fileno()],
            )  # fmt: skip
            self._watchdog = start(
                ["sh", "-c", _WATCHDOG, "watchdog", str(self._process.pid)], stdin=PIPE, process_group=0
            )
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EACCES, errno.ENOEXEC):
                raise
            raise MissingDependency(
                f"the program {error.filename!r} can't be run: {error.strerror}", hint="install it, or repair PATH"
            ) from error

    def _wait_for_answer(self, deadline: float) -> str | None:
        """Wait until it is ready; otherwise return the reason why it is not."""
        while True:
            answers = self._answers()
            # Checked after the answer: a process that has ended since is not ready.
            process = self._process
            if process is None:
                return f"on port {self.port} was ended while it started"
            if process.poll() is not None:
                return f"on port {self.port} ended with exit status {process.returncode} while it started"
            if answers:
                return None
            if time.monotonic() > deadline:
                return f"on port {self.port} did not answer in time"
            time.sleep(_POLL_SECONDS)

    def _end(self, first: signal.Signals) -> None:
        process, self._process = self._process, None
        watchdog, self._watchdog = self._watchdog, None
        lock, self._lock = self._lock, None
        if process is not None:
            _signal_group(process.pid, first)
            with suppress(StillRuns):
                process.wait(_STOP_SECONDS)
            # Also when the leader is gone: its children may not be. The group's id is not reused while one lives.
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
            if self._ports:
                self._ports.taken(_STOP_SECONDS if self._is_ready else _TAKEN_SECONDS)
        if watchdog is not None:
            # Killed before its pipe closes, so that it never signals a process id that was given to another process.
            watchdog.kill()
            watchdog.communicate()
        if lock is not None:
            lock.close()

    def _log_tail(self) -> str:
        with suppress(OSError):
            return self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace").strip()
        return "(no log)"

    def _met_taken_port(self) -> bool:
        """Whether the log of the last start says that another process had one of the ports."""
        with suppress(OSError), self.log.open("rb") as log:
            log.seek(self._log_start)
            return _ADDRESS_IN_USE.search(log.read()) is not None
        return False

    def _prepare_folder(self) -> None:  # noqa: B027  most have nothing to prepare
        """Called before each start, with the folder locked."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _child_env(self) -> dict[str, str]: ...

    @abstractmethod
    def _answers(self) -> bool:
        """Whether this very process answers on the port, and not another one."""

    def _repeats_instance(self, path: str) -> bool:
        """Whether a GET of `path` is answered with 200 and the text that this process was given at its start."""
        reply = request(self.port, "GET", path)
        return reply is not None and reply.status == http.client.OK and reply.instance == self._instance


@dataclass(frozen=True)
class Reply:
    """What a server on loopback answered."""

    status: int
    instance: str | None


def request(
    port: int,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    seconds: float = _REQUEST_SECONDS,
) -> Reply | None:
    """Send a request to loopback; None when there is no whole head of an answer after some seconds."""
    deadline = time.monotonic() + seconds
    connection = http.client.HTTPConnection(HOST, port, timeout=seconds)
    try:
        connection.connect()
        # The connection's own timeout is one for each read: a server that sends slowly would never reach it.
        cut = threading.Timer(deadline - time.monotonic(), _shut_down, [connection.sock])
        cut.start()
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
        finally:
            cut.cancel()
        # http.client takes headers that were cut short for whole ones.
        if time.monotonic() >= deadline:
            return None
        return Reply(response.status, response.getheader(INSTANCE_HEADER))
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def environment_without(*prefixes: str) -> dict[str, str]:
    """This process's environment without the variables whose names begin so."""
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


_STOP_THE_OTHER = "stop the process that listens there"


def _says_taken(taken: list[int]) -> str:
    ports = "port " + ", ".join(map(str, taken))
    return f": another process has taken {ports}" if taken else ""


@contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    """Turn an `OSError` in a server's folder into an `UloraError`."""
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
            f"another stack uses {folder}",
            hint=f"use it, by `source {folder.parent}/env.sh`; or stop it, or choose another folder for this one",
        ) from error
    return file


def _signal_group(group: int, number: signal.Signals) -> None:
    # macOS answers EPERM for a group that has only zombies.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)

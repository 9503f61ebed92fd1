"""A process that puts load on an HTTP server: `python -m benchmarks.serving.client`. `load` starts it.

It reads a job, a line of JSON, from standard input and prints what came back as JSON. It ends early when standard
input is closed. Requests are complete HTTP messages in a
file, sent over plain sockets by one thread, so that it takes little of the cores that it shares with the server.

Closed loop: each client sends its next request when it has its answer. Open loop: requests are due at random moments
whose mean rate is given, whatever the server does. A latency counts from when the request was due, so that one that
could not be sent in time, because the server held all connections, is not made to look fast.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ANSWER_SECONDS = 120.0
"""Seconds to wait for an answer."""
_LOOK = 1.0
"""Seconds between two looks for answers that take too long."""
_CHUNK = 64 * 1024
_MAX_WRONG = 20
_SAME = ("version", "target", "label", "outcome", "is_ood")
_CLOSE = ("confidence", "ood_score", "target_confidence")


@dataclass(frozen=True)
class LoadJob:
    """What to send.

    Attributes:
        requests: the file of the requests, as `write_requests` makes it; they are sent in turn.
        clients: of a closed loop; 0 for an open one.
        rate: requests a second of an open loop.
        seconds: how long requests are sent; `count`: how many at most, 0 for any number; `least`: how many at least,
            also if it is told to end before.
        connections: of an open loop at most; requests that are due beyond it wait in the client.
        expected: a file with each version's answer to each request, to which answers are compared; or empty.
        tolerance: of numbers in them.
    """

    port: int
    requests: str
    clients: int = 0
    rate: float = 0.0
    seconds: float = 3600.0
    count: int = 0
    least: int = 0
    connections: int = 512
    expected: str = ""
    tolerance: float = 1e-3
    seed: int = 0


def write_requests(path: Path, requests: Sequence[bytes]) -> Path:
    """Write complete HTTP requests into a file, each after its length."""
    path.write_bytes(b"".join(struct.pack(">I", len(each)) + each for each in requests))
    return path


def read_requests(path: Path) -> list[bytes]:
    """The requests of a file."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return found


@dataclass
class HttpAnswer:
    """A whole answer: status 0 if none came."""

    status: int = 0
    head: bytes = b""
    body: bytes = b""

    def header(self, name: bytes) -> str:
        """A header's value, empty without it; `name` in lower case."""
        at = self.head.lower().find(b"\r\n" + name + b":")
        return self.head[at + len(name) + 3 :].partition(b"\r\n")[0].strip().decode("latin-1") if at >= 0 else ""


class KeptConnection:
    """One connection that is kept: one request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._error = self.socket.connect_ex(("127.0.0.1", port))
        self._unsent = memoryview(b"")
        self._data = bytearray()
        self.request: tuple[int, float, float] | None = None
        """Number, when it was due, and when it was sent, of what is asked."""

    def ask(self, number: int, due: float, request: bytes) -> None:
        """Send a request, as far as it goes; the rest when the socket can be written.

        Raises:
            OSError: the connection is broken.
        """
        self.request = (number, due, time.monotonic())
        self._unsent = memoryview(request)
        self._data.clear()
        if self._error in (0, errno.EINPROGRESS):
            self.write()
        else:
            raise OSError(self._error, os.strerror(self._error))

    @property
    def wants(self) -> int:
        """The events that it waits for."""
        return select.EPOLLIN | (select.EPOLLOUT if self.is_sending else 0)

    @property
    def is_sending(self) -> bool:
        """Whether some of the request was not sent: what is sent next would be taken for that."""
        return bool(self._unsent)

    def write(self) -> None:
        """Send more of the request.

        Raises:
            OSError: the connection is broken.
        """
        with suppress(BlockingIOError):
            self._unsent = self._unsent[self.socket.send(self._unsent) :]

    def read(self) -> HttpAnswer | None:
        """What has come: a whole answer, or none yet.

        Raises:
            OSError: the connection is closed.
        """
        data = self.socket.recv(_CHUNK)
        if not data:
            raise OSError(errno.ECONNRESET, "closed")
        self._data += data
        head, end, body = bytes(self._data).partition(b"\r\n\r\n")
        if not end:
            return None
        answer = HttpAnswer(int(head[9:12]), head, body)
        length = int(answer.header(b"content-length") or 0)
        if len(body) > length:
            raise OSError(errno.EPROTO, "more than one answer")
        return answer if len(body) == length else None


@dataclass
class Sender:
    """Sends the requests of a job in turn and keeps what came back."""

    job: LoadJob
    requests: Sequence[bytes]
    expected: Mapping[str, Sequence[Mapping[str, Any]]]
    answers: list[tuple[float, float, float, int, int]] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _due: deque[tuple[int, float]] = field(default_factory=deque)
    _open: dict[int, KeptConnection] = field(default_factory=dict)
    _free: list[KeptConnection] = field(default_factory=list)
    _events: select.epoll = field(default_factory=select.epoll)
    _begun: int = 0
    _stopped: bool = False
    _end: float = 0.0

    def run(self) -> None:
        """Send all of it, or until standard input is closed, and wait for the answers."""
        self._events.register(sys.stdin, select.EPOLLIN)
        began = time.monotonic()
        self._end = began + self.job.seconds
        arrivals = iter(()) if self.job.clients else self._arrivals(began)
        for _ in range(self.job.clients):
            self._begin(began)
        arrival, looked = next(arrivals, None), began
        while arrival is not None or self._due or len(self._free) < len(self._open):
            while arrival is not None and arrival <= time.monotonic():
                self._begin(arrival)
                arrival = next(arrivals, None)
            self._send()
            wait = _LOOK if arrival is None else min(_LOOK, max(0.0, arrival - time.monotonic()))
            for handle, events in self._events.poll(wait):
                self._happened(handle, events)
            if time.monotonic() - looked > _LOOK:
                looked = time.monotonic()
                self._give_up_late(looked)
        for connection in self._free:
            connection.socket.close()

    def _arrivals(self, due: float) -> Iterator[float]:
        """When the requests of an open loop are due."""
        chance = random.Random(self.job.seed)  # noqa: S311  no secret
        while self._may_send() and (due := due + chance.expovariate(self.job.rate)) < self._end:
            yield due

    def _begin(self, due: float) -> None:
        """A request is due; it waits for a connection."""
        if self._may_send() and due < self._end:
            self._due.append((self._begun, due))
            self._begun += 1

    def _send(self) -> None:
        """Send what is due, as far as there are connections."""
        most = self.job.clients or self.job.connections
        while self._due and (self._free or len(self._open) < most):
            number, due = self._due.popleft()
            connection = self._free.pop() if self._free else self._connect()
            try:
                connection.ask(number, due, self.requests[number % len(self.requests)])
            except OSError:
                self._lost(connection)
            else:
                if connection.wants != select.EPOLLIN:
                    self._events.modify(connection.socket, connection.wants)

    def _connect(self) -> KeptConnection:
        connection = KeptConnection(self.job.port)
        self._open[connection.socket.fileno()] = connection
        self._events.register(connection.socket, select.EPOLLIN)
        return connection

    def _happened(self, handle: int, events: int) -> None:
        connection = self._open.get(handle)
        if connection is None:
            self._stopped = True
            self._events.unregister(sys.stdin)
            return
        if connection.request is None:  # the server closes it, or says more than it was asked
            self._lost(connection)
            return
        try:
            if events & select.EPOLLOUT:
                connection.write()
                self._events.modify(handle, connection.wants)
            answer = connection.read() if events & ~select.EPOLLOUT else None
        except BlockingIOError:
            return
        except OSError:
            self._lost(connection)
            return
        if answer is not None:
            self._answered(connection, answer)
            if answer.header(b"connection").lower() == "close" or connection.is_sending:
                self._close(connection)
            else:
                self._free.append(connection)

    def _lost(self, connection: KeptConnection) -> None:
        """A connection broke: while it waited for an answer, or between two requests."""
        if connection.request is None:
            self._free.remove(connection)
        else:
            self._answered(connection, HttpAnswer())
        self._close(connection)

    def _close(self, connection: KeptConnection) -> None:
        del self._open[connection.socket.fileno()]
        connection.socket.close()

    def _give_up_late(self, now: float) -> None:
        for connection in list(self._open.values()):
            if connection.request is not None and now - connection.request[2] > _ANSWER_SECONDS:
                self._lost(connection)

    def _answered(self, connection: KeptConnection, answer: HttpAnswer) -> None:
        assert connection.request is not None  # noqa: S101  it is answered once
        (number, due, sent), connection.request = connection.request, None
        now = time.monotonic()
        self.answers.append((due, sent, now, answer.status, self._version(answer)))
        if self.expected and answer.status == 200:
            self._compare(answer, number % len(self.requests))
        if self.job.clients:
            self._begin(now)

    def _may_send(self) -> bool:
        return (not self._stopped or self._begun < self.job.least) and (
            not self.job.count or self._begun < self.job.count
        )

    def _version(self, answer: HttpAnswer) -> int:
        name = answer.header(b"x-ulora-version")
        if name not in self.versions:
            self.versions.append(name)
        return self.versions.index(name)

    def _compare(self, answer: HttpAnswer, index: int) -> None:
        document = json.loads(answer.body)
        named = answer.header(b"x-ulora-version")
        known = self.expected.get(document.get("version", ""))
        problem = "no such version" if known is None else difference(document, known[index], self.job.tolerance)
        if document.get("version") != named:
            problem = f"the header says {named}"
        if problem and len(self.wrong) < _MAX_WRONG:
            self.wrong.append(f"request {index} by {document.get('version')}: {problem}")


def difference(one: Mapping[str, Any], other: Mapping[str, Any], tolerance: float) -> str:
    """How two answers differ, in decisions or in numbers by more than a tolerance; empty if they do not."""
    for name in _SAME:
        if one.get(name) != other.get(name):
            return f"{name} is {one.get(name)!r}, not {other.get(name)!r}"
    numbers = {name: (one.get(name), other.get(name)) for name in _CLOSE}
    shares = other.get("probabilities", {})
    numbers |= {label: (one.get("probabilities", {}).get(label), share) for label, share in shares.items()}
    for name, (mine, its) in numbers.items():
        if (mine is None) != (its is None) or (mine is not None and its is not None and abs(mine - its) > tolerance):
            return f"{name} is {mine}, not {its}"
    return ""


def main() -> None:
    """Run the job on standard input."""
    job = LoadJob(**json.loads(sys.stdin.readline()))
    expected = json.loads(Path(job.expected).read_bytes()) if job.expected else {}
    sender = Sender(job, read_requests(Path(job.requests)), expected)
    gc.freeze()
    gc.disable()  # its pauses would count as the server's
    processor, began = time.process_time(), time.monotonic()
    sender.run()
    took = {"processor": time.process_time() - processor, "seconds": time.monotonic() - began}
    print(  # noqa: T201  it is a program's answer
        json.dumps({"answers": sender.answers, "versions": sender.versions, "wrong": sender.wrong, **took})
    )


if __name__ == "__main__":
    main()

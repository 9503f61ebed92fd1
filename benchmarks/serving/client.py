"""A process that puts load on an HTTP server: `python -m benchmarks.serving.client`. `load` starts it.

It reads a job, a line of JSON, from standard input and prints what came back as JSON. It ends early when standard
input is closed. Requests are complete HTTP messages in a
file, sent over plain sockets of one event loop, so that it takes little of the cores that it shares with the server.

Closed loop: each client sends its next request when it has its answer. Open loop: requests are due at random moments
whose mean rate is given, whatever the server does. A latency counts from when the request was due, so that one that
could not be sent in time, because the server held all connections, is not made to look fast.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ANSWER_SECONDS = 120.0
"""Seconds to wait for an answer."""
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


class KeptConnection(asyncio.Protocol):
    """One kept connection: one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[HttpAnswer] | None = None
        self._data = bytearray()

    @property
    def is_open(self) -> bool:
        """Whether another request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> HttpAnswer:
        """Send a request; status 0 if the connection breaks or the answer takes too long."""
        if self._transport is None:
            return HttpAnswer()
        self._waiting = asyncio.get_running_loop().create_future()
        self._data.clear()
        self._transport.write(request)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._waiting
        except TimeoutError:
            self.close()
            return HttpAnswer()

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._transport = None
        self._settle(HttpAnswer())

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._data += data
        head, end, body = bytes(self._data).partition(b"\r\n\r\n")
        if not end:
            return
        answer = HttpAnswer(int(head[9:12]), head, body)
        if len(body) >= int(answer.header(b"content-length") or 0):
            if answer.header(b"connection").lower() == "close":
                self.close()
            self._settle(answer)

    def _settle(self, answer: HttpAnswer) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)


@dataclass
class Sender:
    """Sends the requests of a job in turn and keeps what came back."""

    job: LoadJob
    requests: Sequence[bytes]
    expected: Mapping[str, Sequence[Mapping[str, Any]]]
    answers: list[tuple[float, float, float, int, int]] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    sent: int = 0
    _free: list[KeptConnection] = field(default_factory=list)
    _opened: int = 0
    _stopped: bool = False
    _queue: deque[asyncio.Future[None]] = field(default_factory=deque)

    async def run(self) -> None:
        """Send all of it, or until standard input is closed, and wait for the answers."""
        asyncio.get_running_loop().add_reader(sys.stdin, self._stop)
        end = time.monotonic() + self.job.seconds
        if self.job.clients:
            await asyncio.gather(*(self._run_client(end) for _ in range(self.job.clients)))
        else:
            await self._run_open(end)
        for connection in self._free:
            connection.close()

    async def _run_client(self, end: float) -> None:
        connection = KeptConnection()
        while self._may_send() and (now := time.monotonic()) < end:
            connection = await self._ask_on(connection, self._next(), now)
        connection.close()

    async def _run_open(self, end: float) -> None:
        tasks: set[asyncio.Task[None]] = set()
        for due in self._due_times(end):
            if (left := due - time.monotonic()) > 0:
                await asyncio.sleep(left)
            task = asyncio.create_task(self._ask_at(self._next(), due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    def _due_times(self, end: float) -> Iterator[float]:
        chance, due = random.Random(self.job.seed), time.monotonic()  # noqa: S311  no secret
        while self._may_send() and (due := due + chance.expovariate(self.job.rate)) < end:
            yield due

    async def _ask_at(self, number: int, due: float) -> None:
        connection = await self._take()
        connection = await self._ask_on(connection, number, due)
        self._free.append(connection)
        if self._queue:
            self._queue.popleft().set_result(None)

    async def _take(self) -> KeptConnection:
        if not self._free and self._opened >= self.job.connections:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            await turn
        if self._free:
            return self._free.pop()
        self._opened += 1
        return KeptConnection()

    async def _ask_on(self, connection: KeptConnection, number: int, due: float) -> KeptConnection:
        """Ask on a connection, or on a new one if that is closed; return the one that was used."""
        index = number % len(self.requests)
        began = time.monotonic()
        try:
            if not connection.is_open:
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(KeptConnection, "127.0.0.1", self.job.port)
            answer = await connection.ask(self.requests[index])
        except OSError:
            answer = HttpAnswer()
        self.answers.append((due, began, time.monotonic(), answer.status, self._version(answer)))
        if self.expected and answer.status == 200:
            self._compare(answer, index)
        return connection

    def _stop(self) -> None:
        asyncio.get_running_loop().remove_reader(sys.stdin)
        self._stopped = True

    def _may_send(self) -> bool:
        return (not self._stopped or self.sent < self.job.least) and (not self.job.count or self.sent < self.job.count)

    def _next(self) -> int:
        self.sent += 1
        return self.sent - 1

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
    asyncio.run(sender.run())
    took = {"processor": time.process_time() - processor, "seconds": time.monotonic() - began}
    print(  # noqa: T201  it is a program's answer
        json.dumps({"answers": sender.answers, "versions": sender.versions, "wrong": sender.wrong, **took})
    )


if __name__ == "__main__":
    main()

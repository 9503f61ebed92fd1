"""Load from another process, and what its answers say."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.client import LoadJob
from registry.errors import LoadFailed
from registry.machine.programs import PIPE, Process, start

OK, TOO_MANY = 200, 429
_ENOUGH = 50
SLOWEST = 0.5
"""Requests a second of an open loop at least, where a capacity was too small to be measured."""


@dataclass(frozen=True)
class ClientAnswer:
    """What one request got.

    Attributes:
        due, sent, done: when, by `time.monotonic`, which all processes of a machine share.
        status: 0 without an answer.
    """

    due: float
    sent: float
    done: float
    status: int
    version: str

    @property
    def seconds(self) -> float:
        """From when it was due to its whole answer."""
        return self.done - self.due


@dataclass(frozen=True)
class LoadResult:
    """All answers of a load.

    Attributes:
        wrong: how answers differed from what was expected.
        client_share: of one core that the client took.
    """

    answers: Sequence[ClientAnswer]
    wrong: Sequence[str]
    client_share: float

    def statuses(self) -> dict[str, int]:
        """How many answers had each status code; 0: none came."""
        return {str(status): count for status, count in sorted(Counter(one.status for one in self.answers).items())}

    def failed(self) -> int:
        """Requests without a 200."""
        return sum(one.status != OK for one in self.answers)

    def rate(self, skip: float = 0.2) -> float:
        """Answers a second, without the beginning and the end, where clients begin and wait; of a few answers, all."""
        done = sorted(one.done for one in self.answers if one.status == OK)
        if not done:
            return 0.0
        first, last = (bound(one.sent for one in self.answers) for bound in (min, max))
        low = first + skip * (last - first)
        inside = sum(low < when <= last for when in done)
        return inside / (last - low) if inside >= _ENOUGH else len(done) / (done[-1] - first)

    def percentile(self, share: float, status: int = OK) -> float:
        """Milliseconds in which that share of the answers with a status came; NaN without any."""
        return percentile((one.seconds for one in self.answers if one.status == status), share)


def percentile(seconds: Iterable[float], share: float) -> float:
    """That share of the values, in milliseconds, is at most so large; NaN without any."""
    ordered = sorted(seconds)
    return 1000 * ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


class RunningLoad:
    """A load that goes on in another process."""

    def __init__(self, job: LoadJob) -> None:
        self._process: Process[str] = start(
            [sys.executable, "-m", "benchmarks.serving.client"],
            stdin=PIPE,
            stdout=PIPE,
            text=True,
            env=dict(os.environ),
        )
        assert self._process.stdin is not None  # noqa: S101  a pipe was asked for
        self._process.stdin.write(json.dumps(asdict(job)) + "\n")
        self._process.stdin.flush()
        self._result: LoadResult | None = None

    def end(self) -> None:
        """Let it send no more."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()

    def result(self) -> LoadResult:
        """Wait for its end.

        Raises:
            LoadFailed: the client failed.
        """
        if self._result is None:
            assert self._process.stdout is not None  # noqa: S101  a pipe was asked for
            out = self._process.stdout.read()
            self.end()
            self._process.wait()
            self._process.stdout.close()
            if self._process.returncode:
                raise LoadFailed(f"the client ended with exit status {self._process.returncode}")
            self._result = _read(json.loads(out))
        return self._result

    def stop(self) -> None:
        """End it now."""
        self._process.kill()
        self.end()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


@contextmanager
def in_background(job: LoadJob) -> Iterator[RunningLoad]:
    """A load that goes on while the caller does something else; ended with the block at the latest."""
    load = RunningLoad(job)
    try:
        yield load
    finally:
        load.stop()


def run_load(job: LoadJob) -> LoadResult:
    """Put a load on a server, to its end."""
    with in_background(job) as load:
        return load.result()


def post_requests(path: str, bodies: Sequence[bytes], headers: Mapping[str, str]) -> list[bytes]:
    """Complete HTTP requests; `{}` in the path becomes the number of the request's target."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = "POST {} HTTP/1.1\r\nHost: replica\r\n" + fields + "Content-Length: {}\r\n\r\n"
    return [head.format(path, len(body)).encode() + body for body in bodies]


def get_request(path: str) -> bytes:
    """A complete GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: replica\r\n\r\n".encode()


def wait_for(reached: Any, seconds: float, what: str, pause: float = 0.002) -> float:
    """Wait until something holds; returns when, by `time.monotonic`.

    Raises:
        LoadFailed: it did not in time.
    """
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise LoadFailed(f"{what} did not happen within {seconds:g} s")
        time.sleep(pause)
    return time.monotonic()


def _read(document: Mapping[str, Any]) -> LoadResult:
    versions = document["versions"]
    answers = [
        ClientAnswer(due, sent, done, status, versions[version])
        for due, sent, done, status, version in document["answers"]
    ]
    return LoadResult(answers, document["wrong"], document["processor"] / max(document["seconds"], 1e-9))


def save(path: Path, document: Any) -> str:
    """Write a JSON file for a client; returns its name."""
    path.write_text(json.dumps(document))
    return str(path)

"""Many followers of one channel, in several processes: threads of one process would wait for its interpreter."""

from __future__ import annotations

import os
import queue
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from benchmarks.empty_versions import CHANNEL
from registry.api import Registry
from registry.errors import NotNow, Unreachable
from registry.machine.programs import PIPE, Process, start
from registry.serving.log_reader import LogReader
from registry.settings import Settings

OF_A_PROCESS = 50
"""Followers that are threads of one process."""
_WAIT = 600.0


@dataclass
class Crowd:
    """Followers, each with the reader of a replica, which reads every `poll` seconds."""

    settings: Settings
    count: int
    poll: float
    _lines: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    _at: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def following(self) -> Iterator[None]:
        """Let them follow until the end of the block."""
        with ExitStack() as ending:
            for begun in range(0, self.count, OF_A_PROCESS):
                process = self._start(min(OF_A_PROCESS, self.count - begun))
                ending.callback(process.wait)
                if process.stdin:
                    ending.callback(process.stdin.close)
                threading.Thread(target=self._listen, args=(process,), daemon=True).start()
            yield

    def wait(self, generation: int) -> list[float]:
        """When each of them had read a record: seconds on the clock that all processes of this machine share.

        Raises:
            NotNow: one has not, after ten minutes.
        """
        until = time.monotonic() + _WAIT
        while len(self._at[generation]) < self.count:
            try:
                found, when = self._lines.get(timeout=max(0.0, until - time.monotonic())).split()
            except queue.Empty:
                late = self.count - len(self._at[generation])
                raise NotNow(f"{late} followers have not seen generation {generation}") from None
            self._at[int(found)].append(float(when))
        return self._at[generation]

    def _start(self, count: int) -> Process[str]:
        command = [sys.executable, "-m", "benchmarks.crowd", str(count), str(self.poll)]
        return start(command, stdin=PIPE, stdout=PIPE, text=True, env={**os.environ, **self.settings.environment()})

    def _listen(self, process: Process[str]) -> None:
        for line in process.stdout or ():
            self._lines.put(line)


def main(count: int, poll: float) -> None:
    """Be so many followers until standard input ends; print the generation of each record, and when it was read."""
    closing = threading.Event()
    threads = [threading.Thread(target=_follow, args=(poll, closing), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    closing.set()
    for thread in threads:
        thread.join()


def _follow(poll: float, closing: threading.Event) -> None:
    reader = LogReader(Registry().channel(CHANNEL))
    closing.wait(random.uniform(0, poll))  # noqa: S311  replicas do not start at one instant
    newest = 0
    while not closing.is_set():
        record = None
        with suppress(Unreachable):  # a replica too asks again after its poll
            record = reader.read(_WAIT)
        if record and record.generation > newest:
            newest = record.generation
            sys.stdout.write(f"{newest} {time.monotonic()}\n")
            sys.stdout.flush()
        closing.wait(poll)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))

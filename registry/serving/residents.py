"""The versions that a replica holds in memory: one thread loads what is wanted, beside whatever is answering."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from registry.errors import MissingBlob, UloraError, Unreachable, first_line
from registry.serving.loaders import Loaded
from registry.versions.pointer import Pointer

_LONGEST_PAUSE = 60.0
_PASSING_PAUSE = 5.0
"""Seconds at most between two tries: of a load that failed, and of one that only waits for the store."""


@dataclass(frozen=True)
class _Failure:
    problem: str
    tries: int
    retry_at: float


class Residents:
    """Versions in memory, by the digest of their manifest.

    `get` takes no lock. Nothing but a dictionary is touched under the lock of the other methods: no load, no download
    and no release of a version's memory ever makes a caller wait.
    """

    def __init__(self, load: Callable[[Pointer], Loaded], arrived: Callable[[], None], *, retry: float = 1.0) -> None:
        """Args:
        load: brings a version into memory; slow, may raise.
        arrived: called in the loading thread, after a load succeeded or failed.
        retry: seconds before a failed load is tried again; doubles with each failure, up to a minute.
        """
        self._load = load
        self._arrived = arrived
        self._retry = retry
        self._wanted: tuple[Pointer, ...] = ()
        self._loaded: dict[str, Loaded] = {}
        self._failures: dict[str, _Failure] = {}
        self._work = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="ulora-loader", daemon=True)

    def get(self, pointer: Pointer) -> Loaded | None:
        """A version, None when it is not in memory."""
        return self._loaded.get(pointer.manifest_sha256)

    def put(self, pointer: Pointer, loaded: Loaded) -> None:
        """Add a version that was loaded elsewhere."""
        with self._work:
            self._loaded[pointer.manifest_sha256] = loaded

    def want(self, pointers: Sequence[Pointer]) -> None:
        """Say which versions should be in memory, the most urgent first. All others are dropped."""
        with self._work:
            self._wanted = tuple(pointers)
            self._work.notify_all()

    def problem(self, pointer: Pointer) -> str:
        """Why the last try to load a version failed; empty when it did not."""
        failure = self._failures.get(pointer.manifest_sha256)
        return failure.problem if failure else ""

    def names(self) -> tuple[str, ...]:
        """The versions in memory."""
        with self._work:
            return tuple(sorted(loaded.version for loaded in self._loaded.values()))

    def start(self) -> None:
        """Start loading what is wanted."""
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Stop loading, and drop all versions; a load in progress is left to end by itself after `timeout` seconds."""
        with self._work:
            self._closing = True
            self._work.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        with self._work:
            self._loaded = {}

    def _run(self) -> None:
        while (pointer := self._next()) is not None:
            try:
                loaded = self._load(pointer)
            except Exception as error:  # whatever it is, the live version serves on
                self._note_failure(pointer, error)
            else:
                self._keep(pointer, loaded)
                del loaded
            if not self._closing:
                self._arrived()

    def _next(self) -> Pointer | None:
        """Wait until something is to be loaded, and return it; None at the end. Drops what nobody wants."""
        while True:
            with self._work:
                dropped = self._forget()
                due = self._due()
                if self._closing or (due and not dropped):
                    return None if self._closing else due[0]
                if not dropped:
                    self._work.wait(self._seconds_to_retry())
            del dropped

    def _due(self) -> list[Pointer]:
        now = time.monotonic()
        missing = [pointer for pointer in self._wanted if pointer.manifest_sha256 not in self._loaded]
        failures = self._failures
        return [
            pointer
            for pointer in missing
            if pointer.manifest_sha256 not in failures or failures[pointer.manifest_sha256].retry_at <= now
        ]

    def _seconds_to_retry(self) -> float | None:
        times = [failure.retry_at for failure in self._failures.values()]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _forget(self) -> list[Loaded]:
        """Take what nobody wants out of the books; its memory is released where the result is."""
        wanted = {pointer.manifest_sha256 for pointer in self._wanted}
        for digest in set(self._failures) - wanted:
            del self._failures[digest]
        return [self._loaded.pop(digest) for digest in set(self._loaded) - wanted]

    def _keep(self, pointer: Pointer, loaded: Loaded) -> None:
        with self._work:
            self._failures.pop(pointer.manifest_sha256, None)
            if not self._closing:
                self._loaded[pointer.manifest_sha256] = loaded

    def _note_failure(self, pointer: Pointer, error: Exception) -> None:
        with self._work:
            before = self._failures.get(pointer.manifest_sha256)
            tries = before.tries + 1 if before else 1
            longest = _PASSING_PAUSE if isinstance(error, MissingBlob | Unreachable) else _LONGEST_PAUSE
            pause = min(longest, self._retry * 2 ** min(tries - 1, 20)) * random.uniform(0.9, 1.1)  # noqa: S311  jitter
            self._failures[pointer.manifest_sha256] = _Failure(
                _describe(pointer, error), tries, time.monotonic() + pause
            )


def _describe(pointer: Pointer, error: Exception) -> str:
    kind = "" if isinstance(error, UloraError) else f"{type(error).__name__}: "
    return f"{pointer.version} was not loaded: {kind}{first_line(error)}"

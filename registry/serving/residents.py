"""The versions that a replica has in memory: one thread loads the wanted ones while others answer requests."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from registry.errors import MissingBlob, UloraError, Unreachable, first_line
from registry.serving.loaders import Loaded
from registry.versions.pointer import Pointer

_MAX_PAUSE = 60.0
"""Seconds at most between two tries of a load that failed."""
_MAX_PAUSE_FOR_STORE = 5.0
"""The same where it failed because the store does not answer or lacks a blob."""


@dataclass(frozen=True)
class _Failure:
    problem: str
    tries: int
    retry_at: float


class Residents:
    """Versions in memory, by the digest of their manifest.

    `get` takes no lock. Under the lock of the other methods only dictionaries are changed: no caller waits for a load,
    a download, or the release of a version's memory.
    """

    def __init__(self, load: Callable[[Pointer], Loaded], arrived: Callable[[], None], *, retry: float = 1.0) -> None:
        """Args:
        load: loads a version into memory; slow, may raise.
        arrived: called in the loading thread after each load, whether it succeeded or failed.
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
        """A version, None if it is not in memory."""
        return self._loaded.get(pointer.manifest_sha256)

    def put(self, pointer: Pointer, loaded: Loaded) -> None:
        """Add a version that was loaded elsewhere."""
        with self._work:
            self._loaded[pointer.manifest_sha256] = loaded

    def want(self, pointers: Sequence[Pointer]) -> None:
        """Set which versions should be in memory, the most urgent first. All others are dropped."""
        with self._work:
            self._wanted = tuple(pointers)
            self._work.notify_all()

    def problem(self, pointer: Pointer) -> str:
        """Why the last try to load a version failed; empty if it did not fail."""
        failure = self._failures.get(pointer.manifest_sha256)
        return failure.problem if failure else ""

    def names(self) -> tuple[str, ...]:
        """The versions in memory."""
        with self._work:
            return tuple(sorted(loaded.version for loaded in self._loaded.values()))

    def start(self) -> None:
        """Start loading the wanted versions."""
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Stop loading and drop all versions. Waits at most `timeout` seconds for a load in progress."""
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
            except Exception as error:  # of any kind: the version in memory serves on
                self._note_failure(pointer, error)
            else:
                self._add(pointer, loaded)
                del loaded
            if not self._closing:
                self._arrived()

    def _next(self) -> Pointer | None:
        """Wait for the next version to load and return it; None at the end. Drops versions that are not wanted."""
        while True:
            with self._work:
                dropped = self._remove_unwanted()
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

    def _remove_unwanted(self) -> list[Loaded]:
        """Remove what is not wanted from the dictionaries. The caller releases the memory, outside of the lock."""
        wanted = {pointer.manifest_sha256 for pointer in self._wanted}
        for digest in set(self._failures) - wanted:
            del self._failures[digest]
        return [self._loaded.pop(digest) for digest in set(self._loaded) - wanted]

    def _add(self, pointer: Pointer, loaded: Loaded) -> None:
        with self._work:
            self._failures.pop(pointer.manifest_sha256, None)
            if not self._closing:
                self._loaded[pointer.manifest_sha256] = loaded

    def _note_failure(self, pointer: Pointer, error: Exception) -> None:
        with self._work:
            before = self._failures.get(pointer.manifest_sha256)
            tries = before.tries + 1 if before else 1
            longest = _MAX_PAUSE_FOR_STORE if isinstance(error, MissingBlob | Unreachable) else _MAX_PAUSE
            pause = min(longest, self._retry * 2 ** min(tries - 1, 20)) * random.uniform(0.9, 1.1)  # noqa: S311  jitter
            self._failures[pointer.manifest_sha256] = _Failure(
                _describe(pointer, error), tries, time.monotonic() + pause
            )


def _describe(pointer: Pointer, error: Exception) -> str:
    kind = "" if isinstance(error, UloraError) else f"{type(error).__name__}: "
    return f"{pointer.version} was not loaded: {kind}{first_line(error)}"

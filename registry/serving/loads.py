"""One load of a version, in a thread of its own that can be left behind.

A replica loads versions into memory (`residents`), a sidecar downloads them to its folder (`sidecar_round`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from registry.errors import LoadFailed
from registry.serving.loaders import Loaded
from registry.serving.proof import Proof, prove
from registry.serving.steps import Steps
from registry.versions.pointer import Pointer

MAX_LOADS = 3
"""Loads that run or hang at a time. Above that no other is begun, so that hanging loads take bounded memory."""
_PROOF_SECONDS = 300.0
"""Seconds for the digests of a version's weights in memory."""
LoadPointer = Callable[[Pointer, Steps], Loaded]
"""Loads a version into memory, and says which step it is at; slow, may raise, may hang."""
_LOOK = 0.05
"""Seconds between two looks whether a load that is waited for is still wanted."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Proven:
    """A version in memory, and what it was found to be before anybody may use it."""

    loaded: Loaded
    proof: Proof


class Load(Generic[Result]):
    """A running load. Its attributes are for the thread that watches it.

    Attributes:
        steps: what it does now.
        is_slow: whether it was reported as slow.
        given_up: whether nobody waits for it any more. It ends at its next step, if it ever gets there.
        has_ended: whether its thread is done.
        result, error: what came of it.
        settled: is set by who watches it when `result` or `error` is final.
    """

    def __init__(self, pointer: Pointer, changed: Callable[[], None]) -> None:
        """`changed` is called in the load's thread when it begins a step, and when it ends."""
        self.pointer = pointer
        self.steps = Steps(changed)
        self._changed = changed
        self.is_slow = self.given_up = self.has_ended = False
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.settled = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, load: Callable[[Pointer, Steps], Result]) -> None:
        """Start it."""
        name = f"ulora-load-{self.pointer.version}"
        thread = threading.Thread(target=self._run, args=(load,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # there are too many threads: tried again later, as any load that failed
            self.error, self.has_ended = error, True
            self._changed()
        else:
            self._thread = thread

    def give_up(self, reason: str) -> None:
        """Wait for it no longer. Its late result is dropped: nobody watched how it came about."""
        with self._lock:
            self.given_up = True
            self.error = LoadFailed(
                reason, hint="its thread is left behind: restart this replica if that happens again"
            )
        self.steps.abandon()
        self.settled.set()

    def join(self, timeout: float) -> None:
        """Wait for the end of its thread."""
        if self._thread is not None:
            self._thread.join(timeout)

    def __str__(self) -> str:
        verb = "left behind: loading" if self.given_up else "loading"
        return f"{verb} {self.pointer.version} for {self.steps.age:.0f} s ({self.steps.current})"

    def _run(self, load: Callable[[Pointer, Steps], Result]) -> None:
        result, error = None, None
        try:
            result = load(self.pointer, self.steps)
        except BaseException as caught:  # of any kind: the version in memory serves on
            error = caught
        with self._lock:
            if not self.given_up:
                self.result, self.error = result, error
        del result, error
        self.has_ended = True
        self._changed()


def proven(load: LoadPointer) -> Callable[[Pointer, Steps], Proven]:
    """The same load, and then the digests of what is in memory."""

    def run(pointer: Pointer, steps: Steps) -> Proven:
        loaded = load(pointer, steps)
        try:
            with steps.step("digests of the weights", _PROOF_SECONDS):
                return Proven(loaded, prove(pointer, loaded))
        finally:
            del loaded  # or the traceback of an error would hold it

    return run


class WaitingLoads:
    """Loads that one thread waits for, and leaves behind if they are not wanted any more."""

    def __init__(self) -> None:
        self._left: list[Load[Any]] = []

    def wait_for(self, pointer: Pointer, load: Callable[[Pointer, Steps], Result], go_on: Callable[[], None]) -> Result:
        """What a load returns. `go_on` is called again and again meanwhile; an error that it raises ends the waiting.

        Raises:
            LoadFailed: `MAX_LOADS` loads that were left behind have not ended.
            Exception: the one that the load or `go_on` raised.
        """
        self._left = [each for each in self._left if not each.has_ended]
        if len(self._left) >= MAX_LOADS:
            raise LoadFailed(
                f"{MAX_LOADS} downloads that were given up hang: no other is begun until one of them ends",
                hint="restart it if that goes on",
            )
        running = Load[Result](pointer, lambda: None)
        running.start(load)
        try:
            while not running.has_ended:
                running.join(_LOOK)
                go_on()
        except BaseException:
            running.give_up(f"{pointer.version} is not wanted any more")
            self._left.append(running)
            raise
        if running.error is not None:
            raise running.error
        assert running.result is not None  # noqa: S101  no load returns None
        return running.result

"""One load of a version, in a thread of its own that can be left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable

from registry.errors import LoadFailed
from registry.serving.loaders import Loaded
from registry.serving.proof import Proof, prove
from registry.serving.steps import Steps
from registry.versions.pointer import Pointer

_PROOF_SECONDS = 300.0
"""Seconds for the digests of a version's weights in memory."""
LoadPointer = Callable[[Pointer, Steps], Loaded]
"""Loads a version into memory, and says which step it is at; slow, may raise, may hang."""


class Load:
    """A running load. Its attributes are for the thread that watches it.

    Attributes:
        steps: what it does now.
        is_slow: whether it was reported as slow.
        given_up: whether nobody waits for it any more. It ends at its next step, if it ever gets there.
        has_ended: whether its thread is done.
        loaded, error: what came of it; `proof` is what was loaded, computed before anybody may use it.
        settled: is set when `loaded` or `error` is final.
    """

    def __init__(self, pointer: Pointer, changed: Callable[[], None]) -> None:
        """`changed` is called in the load's thread when it begins a step, and when it ends."""
        self.pointer = pointer
        self.steps = Steps(changed)
        self._changed = changed
        self.is_slow = self.given_up = self.has_ended = False
        self.loaded: Loaded | None = None
        self.proof: Proof | None = None
        self.error: BaseException | None = None
        self.settled = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, load: LoadPointer) -> None:
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

    def _run(self, load: LoadPointer) -> None:
        loaded, proof, error = None, None, None
        try:
            loaded = load(self.pointer, self.steps)
            with self.steps.step("digests of the weights", _PROOF_SECONDS):
                proof = prove(self.pointer, loaded)
        except BaseException as caught:  # of any kind: the version in memory serves on
            loaded, error = None, caught
        with self._lock:
            if not self.given_up:
                self.loaded, self.proof, self.error = loaded, proof, error
        del loaded, error
        self.has_ended = True
        self._changed()

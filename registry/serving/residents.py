"""The versions that a replica has in memory: one thread sees to it that the wanted ones are loaded while others answer.

Each load has a thread of its own. One that hangs can't be ended, but it can be left behind: its version is not tried
again while it hangs, and others are loaded. At most `MAX_LOADS` loads run or hang at a time.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from registry.errors import LoadFailed, MissingBlob, UloraError, Unreachable, first_line
from registry.serving import events
from registry.serving.loaders import Loaded
from registry.serving.loads import MAX_LOADS, Load, LoadPointer, Proven, proven
from registry.serving.proof import Proof, prove
from registry.serving.proofs import EVERY, Proofs
from registry.serving.tally import Tally
from registry.versions.pointer import Pointer

_MAX_PAUSE = 60.0
"""Seconds at most between two tries of a load that failed."""
_MAX_PAUSE_FOR_STORE = 5.0
"""The same where it failed because the store does not answer or lacks a blob."""


@dataclass(frozen=True)
class LoadFailure:
    """Why a version is not in memory, or what is wrong with it there.

    Attributes:
        tries: to load it, so far.
        error: what the last one raised; None if it is in memory, with other weights than were loaded.
        retry_at: when it is tried again, on the monotonic clock.
    """

    problem: str
    tries: int = 0
    error: BaseException | None = None
    retry_at: float = 0.0


class Residents:
    """Versions in memory, by the digest of their manifest.

    `get` takes no lock. Under the lock of the other methods only dictionaries are changed: no caller waits for a load,
    a download, or the release of a version's memory.
    """

    def __init__(
        self,
        load: LoadPointer,
        changed: Callable[[], None],
        *,
        retry: float = 1.0,
        slow_after: float = 30.0,
        prove_every: float = EVERY,
        tally: Tally | None = None,
    ) -> None:
        """Args:
        changed: called in the watching thread when a load succeeded, failed, was given up, or became slow; and in
            another one when weights in memory changed.
        retry: seconds before a failed load is tried again; doubles with each failure, up to a minute.
        slow_after: seconds after which a load is reported as slow, and no longer holds up more urgent ones.
        prove_every: seconds after which the digests of the weights in memory are computed again.
        tally: counts failed loads, and has counts for each version in memory.
        """
        self._tally = tally or Tally()
        self._load = proven(load)
        self._changed = changed
        self._retry = retry
        self._slow_after = slow_after
        self._wanted: tuple[Pointer, ...] = ()
        self._loaded: dict[str, Loaded] = {}
        self._image_seconds: dict[str, float] = {}
        self._proofs = Proofs(lambda: dict(self._loaded), changed, every=prove_every)
        self._failures: dict[str, LoadFailure] = {}
        self._loads: list[Load[Proven]] = []
        self._work = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="ulora-loader", daemon=True)

    def get(self, pointer: Pointer) -> Loaded | None:
        """A version, None if it is not in memory."""
        return self._loaded.get(pointer.manifest_sha256)

    def image_seconds(self, pointer: Pointer) -> float:
        """Seconds that a version took for an image when it was loaded; 0 if nobody knows."""
        return self._image_seconds.get(pointer.manifest_sha256, 0.0)

    def put(self, pointer: Pointer, loaded: Loaded) -> None:
        """Add a version that was loaded elsewhere."""
        proof = prove(pointer, loaded)
        with self._work:
            self._proofs.add(proof)
            self._tally.version_came(loaded.version, loaded.targets)
            self._loaded[pointer.manifest_sha256] = loaded

    def load_first(self, pointer: Pointer, look: Callable[[], Pointer], every: float) -> None:
        """Load a version; return when it is in memory. `look` is called after each `every` seconds, and at the end: if
        it names another one by then, that one is loaded instead.

        Raises:
            LoadFailed: a step of the load showed no sign of life until its deadline; or `MAX_LOADS` loads hang.
            UloraError: the load failed; see `registry.serving.loaders.load_version`.
        """
        load, is_settled = self._begin_first(pointer), False
        while not is_settled and not self._closing:
            is_settled = load.settled.wait(every)
            if (wanted := look()) != load.pointer:
                load, is_settled = self._begin_first(wanted), False
        load.settled.wait()
        if load.error is not None:
            raise load.error

    def want(self, pointers: Sequence[Pointer]) -> None:
        """Set which versions should be in memory, the most urgent first. All others are dropped."""
        with self._work:
            self._wanted = tuple(pointers)
            self._work.notify_all()

    def retry_now(self) -> None:
        """Try failed loads again at once, because their cause may be gone."""
        with self._work:
            self._failures = {digest: replace(failure, retry_at=0.0) for digest, failure in self._failures.items()}
            self._work.notify_all()

    def problem(self, pointer: Pointer) -> str:
        """Why a version is not in memory, or what is wrong with its weights there; empty if nothing is."""
        failure = self.failure(pointer)
        if failure is None and self.get(pointer) is None and sum(load.given_up for load in self._loads) >= MAX_LOADS:
            return f"{MAX_LOADS} loads hang: no version is loaded until one of them ends; restart this replica"
        return failure.problem if failure else ""

    def failure(self, pointer: Pointer) -> LoadFailure | None:
        """Why a version is not in memory, or what is wrong with its weights there; None if nothing is."""
        failure, proof = self._failures.get(pointer.manifest_sha256), self._proofs.get(pointer)
        return LoadFailure(proof.problem) if failure is None and proof and proof.problem else failure

    def is_settled(self, pointer: Pointer) -> bool:
        """Whether a version is in memory, or nobody should wait for that: its load failed, hangs or is slow."""
        if self.get(pointer) is not None or self.problem(pointer):
            return True
        return any(load.is_slow for load in list(self._loads) if load.pointer == pointer)

    def proof(self, pointer: Pointer) -> Proof | None:
        """What a version in memory was last found to be; None if it is not there."""
        return self._proofs.get(pointer)

    def loading(self) -> str:
        """Which loads run or hang, for how long, and at which step."""
        with self._work:
            return "; ".join(str(load) for load in self._loads)

    def names(self) -> tuple[str, ...]:
        """The versions in memory."""
        with self._work:
            return tuple(sorted(loaded.version for loaded in self._loaded.values()))

    def digests(self) -> frozenset[str]:
        """The digests of their manifests."""
        with self._work:
            return frozenset(self._loaded)

    def find(self, version: str) -> tuple[str, Loaded] | None:
        """A version in memory by its name, with the digest of its manifest; None if it is not there."""
        with self._work:
            return next((each for each in self._loaded.items() if each[1].version == version), None)

    def start(self) -> None:
        """Start loading the wanted versions."""
        self._thread.start()
        self._proofs.start()

    def close(self, timeout: float) -> None:
        """Stop loading and drop all versions. Waits at most `timeout` seconds for loads in progress."""
        deadline = time.monotonic() + timeout
        self._proofs.stop()
        with self._work:
            self._closing = True
            running = [load for load in self._loads if not load.given_up]
            for load in running:
                load.give_up(f"{load.pointer.version} was not loaded: the replica was closed")
            self._work.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        for load in running:
            load.join(max(0.0, deadline - time.monotonic()))
        self._proofs.close(max(0.0, deadline - time.monotonic()))
        with self._work:
            self._loaded = {}

    # --- the watching thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            with self._work:
                is_new = self._look_at_loads()
                dropped = self._remove_unwanted()
                if not (self._closing or self._begin_next() or is_new or dropped):
                    self._work.wait(self._seconds_to_wait())
            del dropped
            if is_new and not self._closing:
                self._changed()

    def _look_at_loads(self) -> bool:
        """Take the results of loads that ended, and give up those that hang; whether there was any news."""
        news = [self._look_at(load) for load in self._loads]
        self._loads = [load for load in self._loads if not load.has_ended]
        return any(news)

    def _look_at(self, load: Load[Proven]) -> bool:
        if load.given_up:
            return load.has_ended
        if load.has_ended:
            self._settle(load)
        elif reason := load.steps.overdue():
            load.give_up(f"{load.pointer.version} was not loaded: {reason}")
            self._settle(load)
        elif not load.is_slow and load.steps.age >= self._slow_after:
            load.is_slow = True
            events.load_is_slow(load.pointer.version, str(load))
        else:
            return False
        return True

    def _settle(self, load: Load[Proven]) -> None:
        """Note what came of a load."""
        digest = load.pointer.manifest_sha256
        if load.result is not None:
            loaded = load.result.loaded
            self._failures.pop(digest, None)
            self._proofs.add(load.result.proof)
            self._tally.version_came(loaded.version, loaded.targets)
            self._image_seconds[digest] = load.steps.image_seconds
            self._loaded[digest] = loaded
        elif load.error is not None:
            self._note_failure(load.pointer, load.error)
        load.settled.set()

    def _begin_next(self) -> bool:
        """Begin the most urgent load that is due, unless another one has to end first."""
        pointer = next(iter(self._due()), None)
        if pointer is None or len(self._loads) >= MAX_LOADS:
            return False
        for load in self._loads:
            if not load.given_up and not self._is_left_for(load, pointer):
                return False
        self._begin(pointer)
        return True

    def _is_left_for(self, load: Load[Proven], pointer: Pointer) -> bool:
        """Whether a load need not be waited for before that of another version. One that nobody wants is given up."""
        if load.pointer not in self._wanted:
            load.give_up(f"{load.pointer.version} was not loaded: it is not wanted any more")
            return True
        return load.is_slow and self._wanted.index(pointer) < self._wanted.index(load.pointer)

    def _begin_first(self, pointer: Pointer) -> Load[Proven]:
        """Begin a load instead of those that run."""
        with self._work:
            if self._closing:
                raise LoadFailed(f"{pointer.version} was not loaded: the replica was closed")
            self._wanted = (pointer,)
            for load in self._loads:
                if not load.given_up:
                    self._is_left_for(load, pointer)
            if sum(not load.has_ended for load in self._loads) >= MAX_LOADS:
                raise LoadFailed(f"{MAX_LOADS} loads hang, so {pointer.version} is not loaded", hint="start it again")
            self._work.notify_all()
            return self._begin(pointer)

    def _begin(self, pointer: Pointer) -> Load[Proven]:
        load = Load[Proven](pointer, self._notify)
        self._loads.append(load)
        load.start(self._load)
        return load

    def _notify(self) -> None:
        with self._work:
            self._work.notify_all()

    def _due(self) -> list[Pointer]:
        now = time.monotonic()
        busy = {*self._loaded, *(load.pointer.manifest_sha256 for load in self._loads)}
        waiting = {digest for digest, failure in self._failures.items() if failure.retry_at > now}
        return [pointer for pointer in self._wanted if pointer.manifest_sha256 not in busy | waiting]

    def _seconds_to_wait(self) -> float | None:
        """Seconds until a failed load is tried again, or a running one is slow or overdue."""
        now = time.monotonic()
        times = [failure.retry_at - now for failure in self._failures.values() if failure.retry_at > now]
        for load in self._loads:
            if not load.given_up:
                times.append(load.steps.seconds_left())
                if not load.is_slow:
                    times.append(self._slow_after - load.steps.age)
        soonest = min(times, default=threading.TIMEOUT_MAX)
        return max(0.0, min(soonest, threading.TIMEOUT_MAX))

    def _remove_unwanted(self) -> list[Loaded]:
        """Remove what is not wanted from the dictionaries. The caller releases the memory, outside of the lock."""
        wanted = {pointer.manifest_sha256 for pointer in self._wanted}
        for digest in set(self._failures) - wanted:
            del self._failures[digest]
        for digest in set(self._loaded) - wanted:
            self._proofs.remove(digest)
            self._image_seconds.pop(digest, None)
            self._tally.version_left(self._loaded[digest].version)
        return [self._loaded.pop(digest) for digest in set(self._loaded) - wanted]

    def _note_failure(self, pointer: Pointer, error: BaseException) -> None:
        before = self._failures.get(pointer.manifest_sha256)
        tries = before.tries + 1 if before else 1
        longest = _MAX_PAUSE_FOR_STORE if isinstance(error, MissingBlob | Unreachable) else _MAX_PAUSE
        pause = min(longest, self._retry * 2 ** min(tries - 1, 20)) * random.uniform(0.9, 1.1)  # noqa: S311  jitter
        problem = _describe(pointer, error)
        self._failures[pointer.manifest_sha256] = LoadFailure(problem, tries, error, time.monotonic() + pause)
        self._tally.load_failed()
        events.load_failed(pointer.version, problem, tries, pause)


def _describe(pointer: Pointer, error: BaseException) -> str:
    kind = "" if isinstance(error, UloraError) else f"{type(error).__name__}: "
    text = first_line(error)
    return text if text.startswith(f"{pointer.version} was not") else f"{pointer.version} was not loaded: {kind}{text}"

"""Follow a channel: answer by the version it names, and change over while requests run.

Three threads besides those that ask: one looks at the log, one loads versions (`residents`), one writes the heartbeat
(`fleet`). What answers is a single reference to an immutable `Serving`. A request takes that reference once and keeps
what it got, so it is answered by exactly one version; a change is one assignment, and no request ever waits for it.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from registry.channels.channel import Channel
from registry.channels.record import Record
from registry.errors import ChannelEmpty, ReplicaClosed, first_line
from registry.machine import clock
from registry.serving.fleet import Heartbeat, Heartbeats
from registry.serving.loaders import Loaded, LoadOptions, Prediction, load_version
from registry.serving.residents import Residents
from registry.store.blobs import Blobs
from registry.versions.bindings import Bindings
from registry.versions.pointer import Pointer

State = Literal["starting", "serving", "stale", "not ready", "closed"]
"""`stale`: the log could not be read for a while. `not ready`: for so long that others should answer instead."""

_BREATH = 0.05
"""Seconds at least between two looks, however often `refresh` is called."""
_LIST_EVERY = 30
"""Looks until a listing checks that the log's end is still there: a log put back from a copy shows no other way."""
_END_SECONDS = 5.0


@dataclass(frozen=True)
class Serving:
    """What answers at one moment. Replaced as a whole, never changed.

    Attributes:
        since: when it began to answer, UTC, ISO 8601.
    """

    record: Record
    stable: Loaded
    since: str

    def route(self, key: str | None) -> Loaded:
        """The version that answers a request with this key: the seam where a trial will split the keys."""
        return self.stable


@dataclass(frozen=True)
class Health:
    """How a replica is.

    Attributes:
        version, generation: what answers, and the record that said so; None and 0 before the first.
        newest: the newest generation that was seen; above `generation` while its version is being loaded.
        error: why it does not serve the newest record, or another trouble; empty when all is well.
        rollback_ready: whether the next rollback target is in memory.
        resident: the versions in memory.
        last_seen: seconds since the log was last read.
        runtime: what computes the answers; before the first, what was asked for, None for the flavor's own choice.
        note: about the heartbeat; empty when it is written or none is asked for.
    """

    state: State
    model: str
    channel: str
    version: str | None
    generation: int
    newest: int
    error: str
    rollback_ready: bool
    resident: tuple[str, ...]
    last_seen: float
    device: str
    runtime: str | None = None
    note: str = ""

    @property
    def ready(self) -> bool:
        """Whether it should be asked."""
        return self.state in ("serving", "stale")


@dataclass(frozen=True)
class LiveOptions(LoadOptions):
    """How a channel is followed, and how its versions are loaded.

    Attributes:
        poll: seconds between two looks at the log, give or take a tenth.
        stale_after: seconds without reading the log after which the state is `stale`.
        max_staleness: seconds after which it is `not ready`. It answers all the same.
        retry: seconds before a failed load is tried again; doubles with each failure, up to a minute.
    """

    poll: float = 1.0
    stale_after: float = 60.0
    max_staleness: float = 900.0
    retry: float = 1.0


class Live:
    """A followed channel. Threads share it; a forked process may not use it.

    with Live(channel, versions, blobs) as live:
        prediction = live.predict(image, key=request_id)
    """

    def __init__(
        self,
        channel: Channel,
        versions: Bindings,
        blobs: Blobs,
        options: LiveOptions | None = None,
        *,
        fleet: Heartbeats | None = None,
    ) -> None:
        """Nothing is read before `start`, or the `with` that calls it. `fleet` writes this replica's heartbeat."""
        options = options or LiveOptions()
        self._channel = channel
        self._device = options.device
        self._runtime = options.runtime
        self._poll = options.poll
        self._stale_after = options.stale_after
        self._max_staleness = options.max_staleness
        self._fleet = fleet
        self._process = os.getpid()

        self._serving: Serving | None = None
        self._goal: Record | None = None
        self._left: Pointer | None = None
        self._seen = time.monotonic()
        self._looks = 1
        self._trouble = ""

        self._changed = threading.Condition()
        self._hint = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="ulora-follower", daemon=True)
        self._load: Callable[[Pointer], Loaded] = lambda pointer: load_version(versions, blobs, pointer, options)
        self._residents = Residents(self._load, self._settle, retry=options.retry)

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Load what the channel serves, then follow it.

        Raises:
            ChannelEmpty: it serves nothing yet.
            StoreUnreachable, StoreDenied, MissingBlob, CorruptBlob, LoadFailed, SelfTestFailed, …: see `load_version`.
        """
        self._check_usable()
        head = self._channel.head()
        if head is None or head.stable is None:
            raise ChannelEmpty(
                f"{self._channel.model} {self._channel.name} serves no version yet",
                hint=f"`ulora promote VERSION --channel {self._channel.name}` makes one stable",
            )
        if self._fleet:
            self._fleet.start(self._heartbeat)
        try:
            self._residents.put(head.stable, self._load(head.stable))
            self._aim(head)
        except BaseException:
            self.close()
            raise
        self._residents.start()
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop following. Requests that run are answered; later ones get `ReplicaClosed`. Doing it twice is fine."""
        if os.getpid() != self._process:
            return
        self._closing.set()
        self._hint.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(_END_SECONDS)
        self._residents.close(_END_SECONDS)
        if self._fleet:
            self._fleet.close(_END_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- questions ---------------------------------------------------------------------------------------------------

    def predict(self, image: Any, key: str | None = None, target: str | None = None) -> Prediction:
        """Answer for one image, by exactly one version.

        Args:
            image: an image file's bytes or path, or what else the version's flavor takes.
            key: what the request belongs to, e.g. a user: requests with one key get one version during a trial.
            target: the crop (and part) if it is known; None for the router to choose.

        Raises:
            ReplicaClosed: it was closed, not started, or belongs to another process.
        """
        return self.predict_batch([image], [target], key)[0]

    def predict_batch(
        self, images: Sequence[Any], targets: Sequence[str | None] | None = None, key: str | None = None
    ) -> Sequence[Prediction]:
        """Answer for each image, in order, all by the same version.

        Raises:
            ReplicaClosed: see `predict`.
        """
        return self.serving.route(key).predict(images, targets)

    @property
    def serving(self) -> Serving:
        """What answers now. Whoever holds it is answered by it, whatever the channel does meanwhile.

        Raises:
            ReplicaClosed: see `predict`.
        """
        self._check_usable()
        if self._serving is None:
            raise ReplicaClosed("this replica was not started", hint="use it as `with registry.follow(…) as live:`")
        return self._serving

    @property
    def version(self) -> str:
        """The version that answers now."""
        return self.serving.stable.version

    @property
    def record(self) -> Record:
        """The record that is served now."""
        return self.serving.record

    def health(self) -> Health:
        """How this replica is. Never raises in the process that it belongs to.

        Raises:
            ReplicaClosed: it belongs to another process.
        """
        self._check_process()
        with self._changed:
            serving, goal = self._serving, self._goal
            return Health(
                state=self._state(),
                model=self._channel.model,
                channel=self._channel.name,
                version=serving.stable.version if serving else None,
                generation=serving.record.generation if serving else 0,
                newest=goal.generation if goal else 0,
                error=self._error(),
                rollback_ready=self._rollback_ready(),
                resident=self._residents.names(),
                last_seen=round(time.monotonic() - self._seen, 3),
                device=self._device,
                runtime=serving.stable.runtime if serving else self._runtime,
                note=self._fleet.note if self._fleet else "",
            )

    def refresh(self) -> None:
        """Look at the log now. A hint that costs next to nothing: many of them in a row are one look."""
        self._check_usable()
        self._hint.set()

    def wait_for(
        self, *, version: str | None = None, generation: int | None = None, timeout: float | None = None
    ) -> bool:
        """Wait until a version answers, or a generation (or a later one) is served; both if both are given.

        Returns:
            False when `timeout` seconds passed first, or the replica was closed.
        """
        self._check_usable()

        def reached() -> bool:
            serving = self._serving
            return serving is not None and (
                version in (None, serving.stable.version) and serving.record.generation >= (generation or 0)
            )

        with self._changed:
            self._changed.wait_for(lambda: reached() or self._closing.is_set(), timeout)
        return reached()

    # --- following ---------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        while not self._closing.is_set():
            looked = time.monotonic()
            self._look()
            if self._hint.wait(self._poll * random.uniform(0.9, 1.1)):  # noqa: S311  spreads the load, no secret
                self._closing.wait(max(0.0, looked + _BREATH - time.monotonic()))
            self._hint.clear()

    def _look(self) -> None:
        """Read the log's end and go there. Nothing that happens here ends the following."""
        try:
            newest = self._newest()
        except Exception as error:
            self._set_trouble(f"the log can't be read: {first_line(error)}")
            self._looks = 0
            return
        self._seen = time.monotonic()
        self._looks = (self._looks + 1) % _LIST_EVERY
        self._aim(newest)

    def _newest(self) -> Record | None:
        """The newest record: by GET of the next generation, or by LIST after an outage."""
        newest = self._goal
        if newest is None or self._looks == 0:
            return self._channel.head()
        while record := self._channel.next(newest.generation):
            newest = record
        return newest

    def _aim(self, newest: Record | None) -> None:
        """Make a record the goal, unless the log went backwards."""
        goal = self._goal
        if goal and (newest is None or newest.generation < goal.generation or _differs(newest, goal)):
            end = newest.generation if newest else 0
            self._looks = 0
            self._set_trouble(
                f"regressed: the log ends at generation {end} with another history than the one seen up to generation "
                f"{goal.generation}, which is still served"
            )
            return
        self._set_trouble("")
        if newest and (goal is None or newest.generation > goal.generation):
            self._goal = newest
            self._settle()

    def _settle(self) -> None:
        """Serve the goal if its version is in memory, then say what else should be. After every change of either."""
        with self._changed:
            goal, serving = self._goal, self._serving
            if goal is None or goal.stable is None or self._closing.is_set():
                return
            loaded = self._residents.get(goal.stable)
            if loaded and (serving is None or goal.generation > serving.record.generation):
                self._serving = Serving(goal, loaded, clock.timestamp())
                self._left = _stable(serving) if _stable(serving) != goal.stable else self._left
                self._changed.notify_all()
            self._residents.want(self._needed(goal))
        if self._fleet:
            self._fleet.changed()

    # --- parts -------------------------------------------------------------------------------------------------------

    def _needed(self, goal: Record) -> list[Pointer]:
        """What should be in memory, the most urgent first.

        What should answer and what a rollback from there needs; the same of what answers meanwhile, so that a load that
        takes long or fails leaves the way back open; and what answered last, so that going forward again is as quick.
        """
        records = [goal, *([self._serving.record] if self._serving else [])]
        wanted = [pointer for record in records for pointer in (record.stable, *record.rollback_targets()[:1])]
        return [pointer for pointer in (*wanted, self._left) if pointer]

    def _state(self) -> State:
        age = time.monotonic() - self._seen
        if self._closing.is_set():
            return "closed"
        if self._serving is None:
            return "starting"
        if age > self._max_staleness:
            return "not ready"
        return "stale" if age > self._stale_after else "serving"

    def _error(self) -> str:
        goal = self._goal
        wanted = (goal.stable, *goal.rollback_targets()[:1]) if goal else ()
        problems = [self._trouble, *(self._residents.problem(pointer) for pointer in wanted if pointer)]
        return "; ".join(problem for problem in problems if problem)

    def _rollback_ready(self) -> bool:
        goal, serving = self._goal, self._serving
        if goal is None or serving is None or serving.record is not goal or not goal.rollback_targets():
            return False
        return self._residents.get(goal.rollback_targets()[0]) is not None

    def _set_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            if self._fleet:
                self._fleet.changed()

    def _heartbeat(self, replica_id: str) -> Heartbeat:
        health = self.health()
        return Heartbeat(
            format=1,
            id=replica_id,
            host=socket.gethostname()[:255],
            pid=self._process,
            device=health.device[:100],
            runtime=(health.runtime or "")[:100],
            state=health.state,
            version=health.version or "",
            generation=health.generation,
            newest=health.newest,
            rollback_ready=health.rollback_ready,
            resident=health.resident,
            error=health.error[:1000],
            when=clock.timestamp(),
        )

    def _check_usable(self) -> None:
        self._check_process()
        if self._closing.is_set():
            raise ReplicaClosed(f"this replica of {self._channel.name} was closed", hint="follow the channel again")

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise ReplicaClosed(
                f"this replica of {self._channel.name} belongs to process {self._process}: its threads did not follow "
                "the fork",
                hint="call `registry.follow(…)` in each worker, after the fork",
            )


def _stable(serving: Serving | None) -> Pointer | None:
    return serving.record.stable if serving else None


def _differs(newest: Record, goal: Record) -> bool:
    return newest.generation == goal.generation and newest.nonce != goal.nonce

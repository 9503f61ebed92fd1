"""Follow a channel: answer with the version that it serves, and switch to the next one while requests run.

Three threads beside those of the callers: one reads the log (`log_reader`), one sees to it that versions are loaded
(`residents`), one writes the heartbeat (`fleet`). What answers is one reference to an immutable `Serving`. A request
reads that reference once, so exactly one version answers it; a switch is one assignment, so no request ever waits for
it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, overload

from registry.channels.channel import Channel
from registry.channels.record import Record
from registry.errors import BrokenChain, ChannelEmpty, ReplicaClosed, first_line
from registry.machine import clock
from registry.serving import events
from registry.serving.fleet import Heartbeats
from registry.serving.health import Health, HealthState
from registry.serving.loaders import (
    Images,
    Loaded,
    LoadOptions,
    Prediction,
    Targets,
    load_version,
)
from registry.serving.log_reader import LogReader
from registry.serving.residents import Residents
from registry.store.blobs import Blobs
from registry.versions.bindings import Bindings
from registry.versions.pointer import Pointer

_MIN_PAUSE = 0.05
"""Seconds at least between two reads of the log, however often `refresh` is called."""
_FIRST_READ_SECONDS = 30.0
"""Seconds for the first read of the log, before which the client of the store is made."""
_CLOSE_SECONDS = 5.0


@dataclass(frozen=True)
class Serving:
    """What answers at one moment. Immutable: a change of the channel makes a new one.

    Attributes:
        since: when it began to answer, UTC, ISO 8601.
    """

    record: Record
    stable: Loaded
    since: str

    def route(self, key: str | None) -> Loaded:
        """The version that answers a request with this key."""
        return self.stable


@dataclass(frozen=True)
class LiveOptions(LoadOptions):
    """How a channel is followed, and how its versions are loaded.

    Attributes:
        poll: seconds between two reads of the log, varied at random by 10%.
        stale_after: seconds without a successful read of the log after which the state is `stale`.
        max_staleness: seconds after which it is `not ready`. Requests are still answered.
        read_seconds: seconds after which a read of the log is given up. The next one is made all the same.
        retry: seconds before a failed load is tried again; doubles with each failure, up to a minute.
        slow_after: seconds after which a load is logged as slow, and no longer holds up more urgent ones.
    """

    poll: float = 1.0
    stale_after: float = 60.0
    max_staleness: float = 900.0
    read_seconds: float = 5.0
    retry: float = 1.0
    slow_after: float = 30.0


class Live:
    """A followed channel. Threads may share it; a forked process may not use it.

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
        check_model: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is read before `start`, which a `with` statement calls. `fleet` writes this replica's heartbeat;
        `check_model` is called where the channel serves nothing, and raises if there is no such model at all."""
        options = options or LiveOptions()
        self._channel = channel
        self._device = options.device
        self._runtime = options.runtime
        self._poll = options.poll
        self._stale_after = options.stale_after
        self._max_staleness = options.max_staleness
        self._fleet = fleet
        self._check_model = check_model
        self._process = os.getpid()

        self._serving: Serving | None = None
        self._goal: Record | None = None
        self._previous: Pointer | None = None
        self._log = LogReader(channel)
        self._read_seconds = options.read_seconds
        self._last_read = time.monotonic()
        self._unread_since = ""
        self._log_problem = ""
        self._told_state: HealthState = "starting"

        self._changed = threading.Condition()
        self._read_now = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="ulora-follower", daemon=True)
        self._residents = Residents(
            lambda pointer, steps: load_version(versions, blobs, pointer, options, steps),
            self._serve_goal,
            retry=options.retry,
            slow_after=options.slow_after,
        )

    # --- start and close ---------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Load what the channel serves, then follow it.

        Raises:
            ChannelEmpty: it serves no version yet.
            NotFound: there is no store, or no such model in it.
            StoreUnreachable, StoreDenied: the log can't be read.
            LoadFailed: the version can't be loaded, or not within the deadlines of `LoadOptions`.
            MissingBlob, CorruptBlob, SelfTestFailed, …: see `load_version`.
        """
        self._check_usable()
        head = self._log.read(_FIRST_READ_SECONDS)
        if head is None or head.stable is None:
            self._check_model()
            raise ChannelEmpty(
                f"{self._channel.model} {self._channel.name} serves no version yet",
                hint=f"`ulora promote VERSION --channel {self._channel.name}` makes one stable",
            )
        if self._fleet:
            self._fleet.start(lambda replica_id: self.health().heartbeat(replica_id))
        try:
            self._residents.start()
            self._residents.load_first(head.stable)
            self._set_goal(head)
        except BaseException:
            self.close()
            raise
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop following. Running requests are answered; later ones raise `ReplicaClosed`. May be called twice.

        It returns within 5 seconds, whatever hangs.
        """
        if os.getpid() != self._process:
            return
        deadline = time.monotonic() + _CLOSE_SECONDS
        self._closing.set()
        self._read_now.set()
        with self._changed:
            self._changed.notify_all()
        if self._fleet:
            self._fleet.stop()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)
        self._residents.close(max(0.0, deadline - time.monotonic()))
        if self._fleet:
            self._fleet.close(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- requests and state ------------------------------------------------------------------------------------------

    @overload
    def predict(self, images: Images, *, target: Targets = None, key: str | None = None) -> Sequence[Prediction]: ...
    @overload
    def predict(self, images: Any, *, target: str | None = None, key: str | None = None) -> Prediction: ...
    def predict(
        self, images: Any, *, target: Targets = None, key: str | None = None
    ) -> Prediction | Sequence[Prediction]:
        """Predict for one image, or for each of a list of images, in order, all with exactly one version.

        Args:
            images: an image file's bytes or path, or another input that the version's flavor takes; or a list or tuple
                of them.
            target: the crop (and part) if it is known; None lets the router choose. Of a list of images it may be a
                list with one for each.
            key: identifies the user or device: during a trial the same version answers all requests with one key.

        Raises:
            TypeError: something has a type that is not taken here.
            BadInput: the lists differ in length, or there is no file at a path.
            ReplicaClosed: it is closed, not started, or belongs to another process.
        """
        return self.serving.route(key).predict(images, target=target)

    @property
    def serving(self) -> Serving:
        """What answers now. A caller may keep it: it stays usable when the channel moves.

        Raises:
            ReplicaClosed: it is closed, not started, or belongs to another process.
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
        """The record of the channel that is served now."""
        return self.serving.record

    def health(self) -> Health:
        """The health of this replica. Never raises in the process that it belongs to.

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
                error=self._problems(),
                rollback_ready=self._rollback_ready(),
                resident=self._residents.names(),
                last_seen=round(time.monotonic() - self._last_read, 3),
                device=self._device,
                runtime=serving.stable.runtime if serving else self._runtime,
                note=self._fleet.note if self._fleet else "",
                loading=self._residents.loading(),
            )

    def refresh(self) -> None:
        """Read the log now, in its own thread. Cheap: many calls in a row are one read."""
        self._check_usable()
        self._read_now.set()

    def wait_for(
        self, *, version: str | None = None, generation: int | None = None, timeout: float | None = None
    ) -> bool:
        """Wait until a version answers, or a generation (or a later one) is served, or both if both are given.

        Returns:
            False if `timeout` seconds passed first, or the replica was closed.
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
            started = time.monotonic()
            self._read_log()
            self._tell_state()
            if self._read_now.wait(self._poll * random.uniform(0.9, 1.1)):  # noqa: S311  spreads the load, no secret
                self._closing.wait(max(0.0, started + _MIN_PAUSE - time.monotonic()))
            self._read_now.clear()

    def _read_log(self) -> None:
        """Read the newest record and make it the goal. No error ends the thread."""
        try:
            newest = self._log.read(self._read_seconds)
        except BrokenChain as error:
            self._last_read = time.monotonic()
            self._set_log_problem(str(error))
        except Exception as error:
            self._unread_since = self._unread_since or clock.timestamp()
            self._set_log_problem(f"the log can't be read since {self._unread_since}: {first_line(error)}")
        else:
            self._note_read()
            self._set_goal(newest)

    def _tell_state(self) -> None:
        """Log the state, if it is another one than before."""
        state, told = self._state(), self._told_state
        if state not in (told, "closed"):
            self._told_state = state
            events.state_changed(self._channel.name, state, told, self._reading_problem())

    def _note_read(self) -> None:
        self._last_read = time.monotonic()
        if self._unread_since:
            self._unread_since = ""
            self._residents.retry_now()
            if self._fleet:
                self._fleet.retry_now()
        self._set_log_problem("")

    def _set_goal(self, newest: Record | None) -> None:
        if newest and (self._goal is None or newest.generation > self._goal.generation):
            self._goal = newest
            self._serve_goal()

    def _serve_goal(self) -> None:
        """Serve the goal if its version is in memory, and request the versions to load. Called after every change of
        the goal or of the versions in memory."""
        with self._changed:
            goal, serving = self._goal, self._serving
            if goal and goal.stable and not self._closing.is_set():
                loaded = self._residents.get(goal.stable)
                if loaded and (serving is None or goal.generation > serving.record.generation):
                    self._serving = Serving(goal, loaded, clock.timestamp())
                    events.version_changed(goal, loaded, serving.stable.version if serving else None)
                    self._previous = _stable(serving) if _stable(serving) != goal.stable else self._previous
                    self._changed.notify_all()
                self._residents.want(self._needed(goal))
        if self._fleet:
            self._fleet.changed()

    # --- state -------------------------------------------------------------------------------------------------------

    def _needed(self, goal: Record) -> list[Pointer]:
        """The versions that should be in memory, the most urgent first.

        The goal's version and its rollback target; the same of the record that is served now, so that a rollback is
        fast while the goal is loading or can't be loaded; and the version served before, so that undoing a rollback is
        fast as well.
        """
        records = [goal, *([self._serving.record] if self._serving else [])]
        wanted = [pointer for record in records for pointer in (record.stable, *record.rollback_targets()[:1])]
        return [pointer for pointer in (*wanted, self._previous) if pointer]

    def _state(self) -> HealthState:
        age = time.monotonic() - self._last_read
        if self._closing.is_set():
            return "closed"
        if self._serving is None:
            return "starting"
        if age > self._max_staleness:
            return "not ready"
        return "stale" if age > self._stale_after else "serving"

    def _problems(self) -> str:
        goal = self._goal
        wanted = (goal.stable, *goal.rollback_targets()[:1]) if goal else ()
        problems = [self._reading_problem(), *(self._residents.problem(pointer) for pointer in wanted if pointer)]
        return "; ".join(dict.fromkeys(problem for problem in problems if problem))

    def _reading_problem(self) -> str:
        """Why the log is not up to date: never empty while it is too old."""
        age = time.monotonic() - self._last_read
        return self._log_problem or (f"the log was last read {age:.0f} s ago" if age > self._stale_after else "")

    def _rollback_ready(self) -> bool:
        goal, serving = self._goal, self._serving
        if goal is None or serving is None or serving.record is not goal or not goal.rollback_targets():
            return False
        return self._residents.get(goal.rollback_targets()[0]) is not None

    def _set_log_problem(self, problem: str) -> None:
        if problem != self._log_problem:
            if problem and not self._log_problem:  # the text has times in it, so that only the first one is news
                events.log_unread(problem)
            elif not problem:
                events.log_read_again(self._channel.name)
            self._log_problem = problem
            if self._fleet:
                self._fleet.changed()

    def _check_usable(self) -> None:
        self._check_process()
        if self._closing.is_set():
            raise ReplicaClosed(f"this replica of {self._channel.name} was closed", hint="follow the channel again")

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise ReplicaClosed(
                f"this replica of {self._channel.name} belongs to process {self._process}: its threads do not exist "
                "after a fork",
                hint="call `registry.follow(…)` in each worker, after the fork",
            )


def _stable(serving: Serving | None) -> Pointer | None:
    return serving.record.stable if serving else None

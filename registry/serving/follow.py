"""Follow a channel: answer with the version that it serves, and switch to the next one while requests run.

Threads beside those of the callers: one reads the log (`log_reader`), one sees to it that versions are loaded
(`residents`), one writes the heartbeat (`fleet`), one computes and a few read images (`scheduler`). What answers is one
reference to an immutable `Serving`. A request reads that reference once, so exactly one version answers it; a switch is
one assignment, so no request ever waits for it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any, Self, overload

from registry.channels.record import Record
from registry.errors import BrokenChain, ReplicaClosed
from registry.machine.cores import wait_without_spinning
from registry.serving import events
from registry.serving.first_record import load_first, not_empty, read_first
from registry.serving.fleet import Heartbeats
from registry.serving.freshness import Freshness
from registry.serving.goals import is_rollback_ready, needed_versions, next_serving, problems_of, trial_problem
from registry.serving.health import Health, HealthState, TrialHealth
from registry.serving.kept_state import StateKeeper
from registry.serving.labels import Labels
from registry.serving.loaders import Images, Loaded, Prediction, Targets, load_version
from registry.serving.log_reader import LogReader
from registry.serving.observer import Observers
from registry.serving.observing import Observing
from registry.serving.options import LiveOptions
from registry.serving.pinned import FollowedLog, notes_of
from registry.serving.residents import Residents
from registry.serving.routing import Route, Serving
from registry.serving.scheduler import Scheduler
from registry.serving.tally import Tally
from registry.store.blobs import Blobs
from registry.versions.bindings import Bindings
from registry.versions.pointer import Pointer

_MIN_PAUSE = 0.05
"""Seconds at least between two reads of the log, however often `refresh` is called."""
_CLOSE_SECONDS = 5.0


class Live:
    """A followed channel. Threads may share it; a forked process may not use it.

    with Live(channel, versions, blobs) as live:
        prediction = live.predict(image, key=request_id)
    """

    def __init__(
        self,
        channel: FollowedLog,
        versions: Bindings,
        blobs: Blobs,
        options: LiveOptions | None = None,
        *,
        fleet: Heartbeats | None = None,
        check_model: Callable[[], None] = lambda: None,
        keeper: StateKeeper | None = None,
    ) -> None:
        """Nothing is read before `start`, which a `with` statement calls. `fleet` writes this replica's heartbeat;
        `check_model` is called where the channel serves nothing, and raises if there is no such model at all; `keeper`
        loads the versions, and keeps what a start without the store needs."""
        options = options or LiveOptions()
        self._channel = channel
        self._device = options.device
        self._runtime = options.runtime
        self._poll = options.poll
        self._fleet = fleet
        self._keeper = keeper
        self.observing = Observing(fleet, options.observe_every)
        self._writers = [writer for writer in (fleet, self.observing, keeper) if writer]
        self._check_model = check_model
        self._process = os.getpid()
        self.deadline = options.deadline
        self.draining = False  # set by a server that ends soon, so that no new requests are sent here
        self.tally = Tally()
        observers = Observers(self.tally, self.observing.counts)
        self.scheduler = Scheduler(options.max_batch, options.waiting_bytes, observers, options.self_test_seconds)

        self._serving: Serving | None = None
        self._goal: Record | None = None
        self._first_generation = 0
        self._previous: Pointer | None = None
        self._log = LogReader(channel)
        self._read_seconds = options.read_seconds
        self._freshness = Freshness(channel.name, options.stale_after, options.max_staleness, self._tell_fleet)
        self._told_state: HealthState = "starting"

        self._changed = threading.Condition()
        self._read_now = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="ulora-follower", daemon=True)
        self.labels = Labels(self.observing.recorder, channel, self._find_resident)
        self._residents = Residents(
            keeper.load if keeper else lambda pointer, steps: load_version(versions, blobs, pointer, options, steps),
            self._serve_goal,
            retry=options.retry,
            slow_after=options.slow_after,
            prove_every=options.prove_every,
            tally=self.tally,
        )

    # --- start and close ---------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Load what the channel serves, then follow it.

        Where the store does not answer, and this machine keeps what it served last, it begins with that, and is `stale`
        until the store answers. A store that refuses (`StoreDenied`) has answered: somebody may have taken the rights
        away on purpose.

        Raises:
            ChannelEmpty: it serves no version yet.
            NotFound: there is no store, or no such model in it.
            StoreUnreachable: the log can't be read, and what this machine keeps is too old, damaged or not complete.
            StoreDenied: the log can't be read.
            LoadFailed: the version can't be loaded, or not within the deadlines of `LoadOptions`.
            MissingBlob, CorruptBlob, SelfTestFailed, …: see `load_version`.
        """
        self._check_usable()
        wait_without_spinning()  # before a loader imports torch
        found = read_first(self._log, self._keeper, self._freshness, self._read_seconds)
        head, stable = not_empty(found, self._channel, self._check_model)
        self._first_generation = head.generation
        if self._fleet:
            self._fleet.start(lambda replica_id: self.health().heartbeat(replica_id))
        try:
            self._residents.start()
            head, stable = load_first(self._residents, head, stable, self._read_newest, self._poll)
            self.scheduler.start(self._residents.get(stable))
            self._set_goal(head)
            with self._changed:  # a trial begins only when it is known whether its canary can be loaded
                self._changed.wait_for(lambda: self._serving is not None or self._closing.is_set())
            if self._keeper:
                self._keeper.start()
        except BaseException:
            self.close()
            raise
        self._tell_state()
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
        for writer in self._writers:
            writer.stop()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)
        self.scheduler.close(max(0.0, deadline - time.monotonic()))
        self._residents.close(max(0.0, deadline - time.monotonic()))
        for writer in self._writers:
            writer.close(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- requests and state ------------------------------------------------------------------------------------------

    @overload
    def predict(
        self, images: Images, *, target: Targets = None, key: str | None = None, deadline: float | None = None
    ) -> Sequence[Prediction]: ...
    @overload
    def predict(
        self, images: Any, *, target: str | None = None, key: str | None = None, deadline: float | None = None
    ) -> Prediction: ...
    def predict(
        self, images: Any, *, target: Targets = None, key: str | None = None, deadline: float | None = None
    ) -> Prediction | Sequence[Prediction]:
        """Predict for one image, or for each of a list of images, in order, all with exactly one version.

        Images of callers in other threads are computed together with these.

        Args:
            images: an image file's bytes or path, or another input that the version's flavor takes; or a list or tuple
                of them.
            target: the crop (and part) if it is known; None lets the router choose. Of a list of images it may be a
                list with one for each.
            key: identifies the user or device: during a trial the same version answers all requests with one key.
            deadline: seconds in which all have to be answered. None, for callers that wait anyway: nothing is refused,
                and the call takes as long as it takes.

        Raises:
            TypeError: something has a type that is not taken here.
            BadInput: the lists differ in length, or there is no file at a path.
            Overloaded: they can't be answered by the deadline, or would take too much memory.
            Expired: the deadline passed.
            ReplicaClosed: it is closed, not started, or belongs to another process.
        """
        return self.scheduler.predict(self.serving.choose(key), images, target, deadline)

    def submit(
        self, image: Any, *, target: str | None = None, key: str | None = None, deadline: float | None = None
    ) -> Future[Prediction]:
        """Predict for one image, for a caller that does not wait in a thread; cancel the future if nobody wants it.

        Args:
            image: see `predict`.
            target: see `predict`.
            key: see `predict`.
            deadline: seconds; that of `LiveOptions` if it is None.

        Raises:
            Overloaded: it can't be answered by then, or would take too much memory.
            ReplicaClosed: it is closed, not started, or belongs to another process.
        """
        seconds = self.deadline if deadline is None else deadline
        return self.scheduler.submit(self.serving.choose(key), image, target, seconds).future

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

    def resident(self, version: str) -> Route | None:
        """A version in memory by its name, whether or not the channel serves it, for a client that chose it; None if it
        is not there."""
        serving, found = self.serving, self._residents.find(version)
        if version == serving.stable.version:
            return serving.forced("stable") if serving.stage.trial else serving.described
        return found and serving.named(found[1], found[0])

    def _find_resident(self, version: str) -> Loaded | None:
        found = self._residents.find(version)
        return found and found[1]

    def resident_digests(self) -> frozenset[str]:
        """The digests of the manifests of the versions in memory."""
        return self._residents.digests()

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
                newest=goal.generation if goal else self._first_generation,
                error=self._problems(),
                rollback_ready=is_rollback_ready(goal, serving, self._residents),
                resident=self._residents.names(),
                last_seen=round(self._freshness.age, 3),
                device=self._device,
                runtime=serving.stable.runtime if serving else self._runtime,
                note=notes_of(self._writers, self._channel),
                loading=self._residents.loading() or self.scheduler.starting,
                max_batch=self.scheduler.max_batch,
                queued=self.scheduler.queued,
                compute=round(self.scheduler.busy_seconds, 3),
                proof=self._residents.proof(serving.record.stable) if serving and serving.record.stable else None,
                trial=TrialHealth.of(serving, trial_problem(serving, self._residents)),
                observed=self.observing.written,
                observations_problem=self.observing.note,
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
        """Read the newest record and make it the goal."""
        when = datetime.now(UTC)
        if newest := self._read_newest():
            self._set_goal(newest)
            self._confirm(newest, when)

    def _read_newest(self) -> Record | None:
        """The newest record; None if it can't be read now. No error ends the thread."""
        try:
            newest = self._log.read(self._read_seconds)
        except BrokenChain as error:
            self._freshness.note_broken(error)
        except Exception as error:
            self._freshness.note_unread(error)
        else:
            self._note_read()
            return newest
        return None

    def _tell_state(self) -> None:
        """Log the state, if it is another one than before."""
        state, told = self._state(), self._told_state
        if state not in (told, "closed"):
            self._told_state = state
            events.state_changed(self._channel.name, state, told, self._freshness.problem)

    def _note_read(self) -> None:
        if self._freshness.note_read():
            self._residents.retry_now()
            self.observing.retry_now()
            if self._fleet:
                self._fleet.retry_now()

    def _confirm(self, newest: Record, when: datetime) -> None:
        """Let the record that is served be kept, if it is the newest."""
        serving = self._serving
        if self._keeper and serving and serving.record.generation == newest.generation:
            needed = needed_versions(serving.record, serving, self._previous)
            self._keeper.confirm(serving.record, when, needed)

    def _set_goal(self, newest: Record) -> None:
        if self._goal is None or newest.generation > self._goal.generation:
            self._goal = newest
            self._serve_goal()

    def _serve_goal(self) -> None:
        """Serve the goal if its versions are in memory, and request those to load. Called after every change of the
        goal or of the versions in memory."""
        with self._changed:
            goal, before = self._goal, self._serving
            if goal and goal.stable and not self._closing.is_set():
                if serving := next_serving(goal, before, self._residents):
                    self._serve(serving, before)
                self._residents.want(needed_versions(goal, self._serving, self._previous))
                self._tell_of_canary()
        self._tell_fleet()

    def _serve(self, serving: Serving, before: Serving | None) -> None:
        if serving.canary and serving.record.canary:
            seconds = self._residents.image_seconds(serving.record.canary)
            self.scheduler.computer.expected.append((serving.canary.version, seconds))
        self._serving = serving
        self.observing.serves(serving)
        if before and before.record is serving.record:
            events.canary_joined(serving)
        else:
            events.version_changed(serving, before.stable.version if before else None)
            self.tally.swapped()
            self._previous = _stable(before) if _stable(before) != serving.record.stable else self._previous
        self._changed.notify_all()

    def _tell_of_canary(self) -> None:
        """Let the failure of the canary that is served be counted."""
        serving = self._serving
        canary = serving.record.canary if serving and serving.stage.trial else None
        if serving and canary and (failure := self._residents.failure(canary)):
            self.observing.canary_failed(serving.stage, failure)

    def _tell_fleet(self) -> None:
        if self._fleet:
            self._fleet.changed()

    # --- state -------------------------------------------------------------------------------------------------------

    def _state(self) -> HealthState:
        if self._closing.is_set():
            return "closed"
        if self._serving is None:
            return "starting"
        return "draining" if self.draining else self._freshness.state

    def _problems(self) -> str:
        problems = [self._freshness.problem, *problems_of(self._goal, self._residents)]
        return "; ".join(dict.fromkeys(problem for problem in problems if problem))

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

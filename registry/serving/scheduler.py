"""Answer the images of all callers in batches: a few threads read images, and one thread computes.

An image is admitted if it can be answered within its deadline, by what batches take and how many images wait; else it
is refused at once. It is read (decoded and resized) and waits. When the computing thread is idle, it takes what has
been read, in order of arrival, up to `max_batch` rows of any versions, targets and callers; it never waits for more.

A row that is cancelled, because its client went away, or that would be late, is not computed. All rows that wait hold a
bounded number of bytes.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from registry.errors import LoadFailed, Overloaded, ReplicaClosed, first_line
from registry.machine.cores import usable_cores
from registry.serving import rows as of_versions
from registry.serving.admitted_row import LATE_SECONDS, AdmittedRow, ShadowRow
from registry.serving.busy import Busy
from registry.serving.byte_budget import ByteBudget, HeldBytes
from registry.serving.computing import BatchComputer, ShadowRoom, expired
from registry.serving.loaders import Loaded, Prediction, PreparedRow
from registry.serving.observer import BatchObserver, Observers, RowOutcome
from registry.serving.pace import DEFAULT_MAX_BATCH, Pace, calibrate
from registry.serving.precedence import LoopPrecedence
from registry.serving.routing import Route

DEFAULT_WAITING_BYTES = 512 * 1024 * 1024
"""Bytes of bodies and of rows that may wait."""
_SHADOW_SHARE = 8
"""So many times fewer bytes, of their own, may the images hold that wait for the canary of a shadow trial."""
_MAX_READERS = 4
_SHARE = 2
"""Of a batch, that is computed while the loop goes first."""
_MAX_RETRY_AFTER = 60
FIRST_SECONDS = 300.0
"""Seconds for the first batches, after which they hang. As many as a self-test may take by default."""

_log = logging.getLogger(__name__)


class Scheduler:
    """The rows that wait, and the threads that read and compute them. Any thread may call it."""

    def __init__(
        self,
        max_batch: int | None = None,
        waiting_bytes: int = DEFAULT_WAITING_BYTES,
        observer: BatchObserver | None = None,
        first_seconds: float = FIRST_SECONDS,
    ) -> None:
        """Args:
        max_batch: rows of a batch at most; None to find out at the start.
        waiting_bytes: what bodies and rows that wait may hold together.
        observer: is told about batches and answers.
        first_seconds: how long the batches may take that the start tries.
        """
        self._first_seconds = first_seconds
        self._observer = Observers(observer) if observer else Observers()
        self.computer = BatchComputer(self._observer)
        self.budget = ByteBudget(waiting_bytes)
        self._shadow_budget = ByteBudget(waiting_bytes // _SHADOW_SHARE)
        self.precedence = LoopPrecedence()
        self._max_batch = max_batch
        self._pace = Pace(max_batch or DEFAULT_MAX_BATCH)
        self._shadow_room = ShadowRoom()
        # In order of arrival, read or not. Who takes a row out of it, and nobody else, settles its future.
        self._waiting: dict[AdmittedRow, None] = {}
        self._work = threading.Condition()
        self._free_since, self._gave_way = math.inf, 0.0
        self._calls = 0
        self._closing = self._ended = False
        self._unread: queue.SimpleQueue[AdmittedRow | None] = queue.SimpleQueue()
        self._first: Loaded | None = None
        self._calibrated = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ulora-compute", daemon=True)
        self._readers = [
            threading.Thread(target=self._run_reader, name=f"ulora-read-{number}", daemon=True)
            for number in range(min(usable_cores(), _MAX_READERS))
        ]
        self._busy = Busy(len(self._readers))

    def start(self, first: Loaded | None = None) -> None:
        """Start the threads, and calibrate with the first version if its flavor answers batches.

        Raises:
            LoadFailed: its first batches hang.
        """
        self._first = first
        for thread in (self._thread, *self._readers):
            thread.start()
        if not self._calibrated.wait(self._first_seconds) and first is not None:
            raise LoadFailed(
                f"{first.version} was not loaded: its first batches were not computed within {self._first_seconds:g} s",
                hint="the thread that computes hangs: start this replica again",
            )

    def close(self, timeout: float) -> None:
        """Answer what was admitted, and end the threads. What is left after `timeout` seconds gets `ReplicaClosed`."""
        with self._work:
            self._closing = True
            self._work.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        with self._work:
            self._ended = True
            left = list(self._waiting)
            self._work.notify_all()
        for row in left:
            self._settle(row, RowOutcome(error=_closed(), while_reading=True))
        for _ in self._readers:
            self._unread.put(None)

    # --- callers -----------------------------------------------------------------------------------------------------

    def predict(
        self, route: Route, images: Any, target: Any = None, deadline: float | None = None
    ) -> Prediction | list[Prediction]:
        """Answer one image or several as `Loaded.predict` does, and wait for it.

        Args:
            deadline: seconds in which all have to be answered; None waits as long as it takes, and is never refused.

        Raises:
            TypeError, BadInput: see `Loaded.predict`.
            Overloaded, Expired: they can't be answered by the deadline, or were not.
            ReplicaClosed: it was closed.
        """
        several = of_versions.as_list(images)
        asked = [(images, target)]
        if several is not None:
            asked = list(zip(several, of_versions.targets_of(several, target), strict=True))
        expires = math.inf if deadline is None else time.monotonic() + deadline
        with self._call():
            answered = self._answer_in_order(route, asked, expires)
        return answered[0] if several is None else answered

    def submit(self, route: Route, image: Any, target: str | None, deadline: float) -> AdmittedRow:
        """Admit one image; its answer comes in the row's future. Cancelling that takes the image out of the queue.

        The future may also get the errors of `predict`.

        Args:
            deadline: seconds.

        Raises:
            Overloaded: it can't be answered by then, or there is no memory for it.
            ReplicaClosed: it was closed.
        """
        with self._call():
            return self._submit(route, image, target, time.monotonic() + deadline)

    def check_admission(self, deadline: float, arriving: int = 0) -> None:
        """Check that one image more can be answered within so many seconds.

        `arriving` images will wait before it, and do not yet.

        Raises:
            Overloaded: it can't.
        """
        with self._work:
            waiting, busy = len(self._waiting) + arriving, self._busy.computing_seconds
            if not waiting and not self._busy.is_computing:
                return  # whatever batches took before, nothing is in its way, and its duration is news
            rows = self._rows
            one = self._pace.seconds(rows)
            # A batch that takes longer than usual may do so for as long again.
            seconds = (math.ceil(waiting / rows) + 1) * one + max(0.0, busy - one)
        if seconds > deadline:
            raise Overloaded(
                f"{waiting} images wait, so that this one would take {seconds:.1f} s, and not {deadline:g} s",
                retry_after=min(_MAX_RETRY_AFTER, max(1, math.ceil(seconds - deadline))),
            )

    @property
    def max_batch(self) -> int:
        """Rows of a batch at most."""
        return self._pace.max_batch

    @property
    def _rows(self) -> int:
        """Rows of a batch now: fewer while the loop goes first, so that it soon does."""
        return max(1, self.max_batch // _SHARE) if self.precedence.is_on else self.max_batch

    @property
    def queued(self) -> int:
        """Images that wait."""
        return len(self._waiting)

    @property
    def has_died(self) -> bool:
        """Whether the computing thread has ended without having been asked to. Nothing is answered any more then."""
        return self._thread.ident is not None and not self._thread.is_alive() and not self._closing

    @property
    def busy_seconds(self) -> float:
        """How long the present batch has been computed, or every thread that reads has been at one image, whichever is
        longer; 0 if there is none."""
        return self._busy.seconds

    @property
    def starting(self) -> str:
        """What a start waits for, and for how long; empty before and after that."""
        if self._calibrated.is_set() or not self._busy.is_computing:
            return ""
        return f"computing the first batches for {self._busy.computing_seconds:.0f} s"

    @contextmanager
    def _call(self) -> Iterator[None]:
        """A call that began before the end may add rows until it is done."""
        with self._work:
            if self._closing:
                raise _closed()
            self._calls += 1
        try:
            yield
        finally:
            with self._work:
                self._calls -= 1
                self._work.notify_all()

    def _answer_in_order(self, route: Route, asked: Sequence[tuple[Any, Any]], expires: float) -> list[Prediction]:
        """Answer images, with two batches of them in the queue at most: a long list leaves room for other callers."""
        pending: deque[Future[Prediction]] = deque()
        answered = []
        try:
            for image, target in asked:
                if len(pending) >= 2 * self.max_batch:
                    answered.append(_wait(pending.popleft(), expires))
                pending.append(self._submit(route, image, target, expires).future)
            while pending:
                answered.append(_wait(pending.popleft(), expires))
        finally:
            for future in pending:
                future.cancel()
        return answered

    def _submit(self, route: Route, image: Any, target: Any, expires: float) -> AdmittedRow:
        row = AdmittedRow(route, image, target, expires, of_versions.nbytes_of(image), time.monotonic())
        if row.has_deadline:
            self.check_admission(expires - row.since)
        self.budget.take(row.held, bounded=row.has_deadline)
        with self._work:
            ended = self._ended
            if not ended:
                self._waiting[row] = None
        row.future.add_done_callback(lambda future: self._leave(row))
        if ended:
            row.future.set_exception(_closed())
        self._unread.put(row)
        return row

    # --- rows --------------------------------------------------------------------------------------------------------

    def _leave(self, row: AdmittedRow) -> None:
        """Take a row that is settled or cancelled out of the queue, with the memory that it holds."""
        with self._work:
            self._waiting.pop(row, None)
            held, row.held = row.held, 0
            row.image = row.prepared = None
            if row.shadow:
                row.shadow.release()
            del row.route  # row and future refer to each other: a version must not wait for the garbage collector
        self.budget.give(held)

    def _claim(self, row: AdmittedRow) -> bool:
        """Take a row out of the queue in order to settle it; False if another thread did, or it was cancelled."""
        with self._work:
            if row not in self._waiting:
                return False
            del self._waiting[row]
        return row.future.set_running_or_notify_cancel()

    def _settle(self, row: AdmittedRow, outcome: RowOutcome, shadow: ShadowRow | None = None) -> None:
        """Let a row that was not computed have its outcome, unless another thread did. The canary reads the image
        after that."""
        if self._claim(row):
            told = row.settled(outcome, time.monotonic())
            row.give(outcome)
            if shadow is not None:
                shadow.read()
                told = replace(told, shadow=shadow.outcome)
            self._observer.settled([told])
        if shadow is not None:
            shadow.release()

    # --- the threads that read ---------------------------------------------------------------------------------------

    def _run_reader(self) -> None:
        while (row := self._unread.get()) is not None:
            self.precedence.wait()
            with self._busy.reading():
                self._read(row)
            del row

    def _read(self, row: AdmittedRow) -> None:
        with self._work:
            if row not in self._waiting:
                return  # it was cancelled
            route, image = row.route, row.image
        if row.expires <= time.monotonic():
            self._settle(row, RowOutcome(error=expired(), while_reading=True))
            return
        try:
            prepared = of_versions.prepare(route.loaded, image, row.target)
            shadow = self._for_canary(row, route, image, prepared)
            if prepared.answer is None:
                self._await_turn(row, prepared, shadow)
            else:
                self._settle(row, RowOutcome(prepared.answer), shadow)
        except BaseException as error:
            self._settle(row, RowOutcome(error=error, while_reading=True))

    def _for_canary(self, row: AdmittedRow, route: Route, image: Any, prepared: PreparedRow) -> ShadowRow | None:
        """The same image for the canary of a shadow trial; None if there is none, or no time or memory for it. Where
        the canary can't take the pixels, it reads the image itself, when it computes: stable's row waits for neither.
        """
        if (canary := route.shadow) is None:
            return None
        shadow = ShadowRow(canary)
        try:
            shadow.prepared = of_versions.adopt(canary, prepared)
            if shadow.prepared is None:
                shadow.image, shadow.target, shadow.held = image, row.target, HeldBytes(self._shadow_budget)
                shadow.held.add(of_versions.nbytes_of(image))
        except Overloaded:
            row.was_shed = True
            return None
        except BaseException as error:  # of any kind: stable's row goes on
            shadow.outcome = RowOutcome(error=error, while_reading=True)
        if self._unread.empty():
            return shadow
        shadow.release()  # others wait to be read for stable
        row.was_shed = True
        return None

    def _await_turn(self, row: AdmittedRow, prepared: PreparedRow, shadow: ShadowRow | None) -> None:
        """Let a row that was read wait for its turn. It now holds its pixels instead of the image."""
        given_back = holds = prepared.nbytes
        try:
            self.budget.take(holds, bounded=row.has_deadline)
            with self._work:
                if row in self._waiting:
                    given_back, row.held = row.held, holds
                    row.image, row.prepared, row.shadow, shadow = None, prepared, shadow, None
                    self._work.notify_all()
            self.budget.give(given_back)
        finally:
            if shadow is not None:
                shadow.release()

    # --- the thread that computes ------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._busy.compute()
        self._calibrate()
        while rows := self._take():
            self._answer(rows)
            del rows  # a version that is served no more must not stay in memory because nothing came after it

    def _calibrate(self) -> None:
        first, self._first = self._first, None
        try:
            if first is not None and of_versions.takes_batches(first):
                self.computer.prepare_for(first)
                self._pace = calibrate(first, self._max_batch)
        except BaseException as error:  # of any kind: this thread has to answer
            _log.warning(
                "batches could not be timed, so they have up to %d images: %s", self.max_batch, first_line(error)
            )
        self._calibrated.set()

    def _take(self) -> list[AdmittedRow]:
        """The next rows, as soon as there are any; none at the end."""
        self._busy.rest()
        self._gave_way = self.precedence.give_way()
        self._free_since = time.monotonic()
        with self._work:
            while not self._ended:
                if not self._waiting:
                    self._free_since = math.inf
                ready = (row for row in self._waiting if row.prepared is not None)
                taken = list(islice(ready, self._rows))
                if taken:
                    self._busy.compute()
                    for row in taken:
                        del self._waiting[row]
                    return taken
                if self._closing and not self._waiting and not self._calls:
                    break
                self._work.wait()
        return []

    def _answer(self, rows: list[AdmittedRow]) -> None:
        now = time.monotonic()
        taken = self._in_time([row for row in rows if row.future.set_running_or_notify_cancel()], now)
        if taken:
            self._observer.batch_taken([now - row.since for row in taken])
            self._shed_shadows(taken)
            computed = self.computer.compute(taken, self._pace.seconds)
            # Where images waited to be read since the batch before, their reading is what takes long.
            took = time.monotonic() - min(now, self._free_since)
            self._pace.note(computed, took, self._gave_way)
            self.computer.give(taken, lambda: not self._waiting)

    def _shed_shadows(self, rows: Sequence[AdmittedRow]) -> None:
        """Drop the rows of the canary that there is no room for."""
        room = self._shadow_room.beside(rows, len(self._waiting), self._rows, self._pace.seconds)
        for row in [row for row in rows if row.shadow is not None][room:]:
            row.shed()

    def _in_time(self, rows: list[AdmittedRow], now: float) -> list[AdmittedRow]:
        """The rows that will be answered by their deadlines; else those whose deadlines have not passed, because only a
        batch that is computed says how long batches take now. The others fail."""
        latest = now + self._pace.seconds(len(rows))
        bound = latest if any(row.expires > latest for row in rows) else now
        late = [row for row in rows if row.expires <= bound]
        told = [row.settled(RowOutcome(error=expired(), while_reading=True), now) for row in late]
        for row, each in zip(late, told, strict=True):
            row.give(each.outcome)
        self._observer.settled(told)
        return [row for row in rows if row.expires > bound]


def _wait(future: Future[Prediction], expires: float) -> Prediction:
    seconds = None if expires == math.inf else max(0.0, expires - time.monotonic()) + LATE_SECONDS
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():
            raise
        future.cancel()
        raise expired() from None


def _closed() -> ReplicaClosed:
    return ReplicaClosed("this replica was closed", hint="follow the channel again")

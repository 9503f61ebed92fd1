"""Follow a channel for a server of another make: keep a folder at what the channel serves, until it is closed.

What one round does is in `registry.serving.sidecar_round`, and what the folder looks like in
`registry.tree.kept_folder`. One thread reads the log, also while another does a round. A sidecar reads the store and
writes nothing to it: no heartbeat either, because it does not know what the server beside it has in memory.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from registry.channels.channel import Channel
from registry.channels.record import Record
from registry.errors import BadInput, BrokenChain, ChannelEmpty, NotFound, ReplicaClosed, UloraError, first_line
from registry.progress import ignore
from registry.serving import events
from registry.serving.admissions import Admissions
from registry.serving.log_reader import LogReader
from registry.serving.sidecar_round import FolderKeeper, KeptVersion, SidecarOptions, stable_of
from registry.store.blobs import Blobs
from registry.tree.kept_folder import FolderState, KeptFolder
from registry.versions.pointer import Pointer

_FIRST_READ_SECONDS = 30.0
"""Seconds for the first read of the log, before which the client of the store is made."""
_LONGEST_PAUSE = 60.0


class Sidecar:
    """Keeps one folder at what one channel serves. Only `close` may be called from another thread."""

    def __init__(
        self, channel: Channel, admissions: Admissions, blobs: Blobs, folder: Path,
        options: SidecarOptions | None = None, *, check_model: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Nothing is read or written before a method is called. `check_model` is called where the channel serves
        nothing, and raises if there is no such model at all."""
        self._channel = channel
        self._path = folder.absolute()
        self._options = options or SidecarOptions()
        self._check_model = check_model
        self._closing = threading.Event()
        self._wake: SimpleQueue[None] = SimpleQueue()  # in C: a signal handler may interrupt anything here
        self._keeper = FolderKeeper(admissions, blobs, self._path, self._options, self._is_left)
        self._purpose = FolderState(format=1, model=channel.model, channel=channel.name, layout=self._options.layout)
        self._log = LogReader(channel)
        self._log_problem = ""
        self._is_waiting = False
        self._newest: Record | None = None
        self._mistake: UloraError | None = None
        self._retries_now = False
        self._goal: Record | None = None
        self._due, self._tries = math.inf, 0
        self._unready = ""

    def plan(self) -> KeptVersion:
        """What `once` would do now. Writes nothing. The errors are those of `once`."""
        record = self._served()
        with KeptFolder.looked_at(self._path, self._purpose) as folder:
            return self._keeper.plan(folder, record)

    def once(self) -> KeptVersion:
        """Bring the folder to what the channel serves now, and run the hook if it is due.

        Raises:
            ChannelEmpty: the channel serves no version yet.
            NotFound: there is no store, or no such model in it; or the version has nothing for this layout.
            LoadFailed: the hook failed. `current` was moved and stays.
            BadInput, BadManifest, UnsafePath, NotNow: the folder can't be used; see `KeptFolder.opened`.
            BrokenChain: the log is older than what was followed here.
            NotTrusted, MissingBlob, CorruptBlob, DiskFull: the version was not put there; `current` was not moved.
        """
        record = self._served()
        with KeptFolder.opened(self._path, self._purpose) as folder:
            answer, problem = self._keeper.keep(folder, record)
        if problem:
            raise problem
        return answer

    def run(self, tell: Callable[[KeptVersion], None] = ignore) -> None:
        """Follow the channel until `close`, also through outages of the store.

        Args:
            tell: is called after each round that did something.

        Raises:
            BadInput, BadManifest, UnsafePath, NotNow: the folder can't be used; see `KeptFolder.opened`.
            NotFound: there is no store, or no such model in it. Only before the first record was read.
        """
        with KeptFolder.opened(self._path, self._purpose) as folder:
            threading.Thread(target=self._read_on, name="ulora-follower", daemon=True).start()
            try:
                while not self._closing.is_set():
                    self._take_news()
                    if self._goal and time.monotonic() >= self._due:
                        self._try(folder, self._goal, tell)
                    else:
                        with suppress(Empty):
                            self._wake.get(timeout=max(0.0, min(self._due - time.monotonic(), _LONGEST_PAUSE)))
            finally:
                self.close()

    def close(self) -> None:
        """End `run` soon: a download or a hook that runs is given up. A signal handler may call it."""
        self._closing.set()
        self._wake.put(None)

    # --- the log -----------------------------------------------------------------------------------------------------

    def _served(self) -> Record:
        head = self._log.read(_FIRST_READ_SECONDS)
        if head is None or head.stable is None:
            self._check_model()
            raise ChannelEmpty(
                f"{self._channel.model} {self._channel.name} serves no version yet",
                hint=f"`ulora promote VERSION --channel {self._channel.name}` makes one stable",
            )
        return head

    def _read_on(self) -> None:
        """Read the log again and again, in a thread of its own: what a round does must not hold it up."""
        while not self._closing.is_set() and self._mistake is None:
            self._read_log()
            self._closing.wait(self._options.poll * random.uniform(0.9, 1.1))  # noqa: S311  spreads the load

    def _read_log(self) -> None:
        """Note the newest record. Until there is one, mistakes in the settings end `run`."""
        try:
            newest = self._log.read(self._options.read_seconds if self._newest else _FIRST_READ_SECONDS)
            if newest is None and self._newest is None and not self._is_waiting:
                self._check_model()
        except (BadInput, NotFound) as error:
            if self._newest is None:
                self._mistake = error
                return self._wake.put(None)
            self._note_problem(f"the log can't be read: {first_line(error)}")
        except BrokenChain as error:
            self._note_problem(first_line(error))
        except Exception as error:  # of any kind: what is there stays, and the next read is made all the same
            self._note_problem(f"the log can't be read: {first_line(error)}")
        else:
            self._note_read(newest)

    def _note_problem(self, problem: str) -> None:
        if not self._log_problem and not self._closing.is_set():  # only the first one is news
            events.log_unread(f"{self._channel.name}: {problem}; {self._path / 'current'} stays")
        self._log_problem = problem

    def _note_read(self, newest: Record | None) -> None:
        if self._log_problem:
            self._log_problem = ""
            events.log_read_again(self._channel.name)
            self._retries_now = True
            self._wake.put(None)
        if newest and newest.stable and (self._newest is None or newest.generation > self._newest.generation):
            self._newest = newest
            self._wake.put(None)
        elif self._newest is None and not self._is_waiting:
            self._is_waiting = True
            events.channel_empty(self._channel.name)

    def _is_left(self, record: Record, pointer: Pointer) -> bool:
        """Whether what a round on a record does for a version is to be given up: the newest record would have another
        one before it, or does not need it at all."""
        newest = self._newest
        if self._closing.is_set() or newest is None or newest.generation <= record.generation:
            return self._closing.is_set()
        if pointer == newest.stable:
            return False
        return newest.stable != record.stable or pointer not in self._options.targets(newest)

    # --- rounds ------------------------------------------------------------------------------------------------------

    def _take_news(self) -> None:
        """Make the newest record the goal; try again at once what failed while the log could not be read."""
        if self._mistake:
            raise self._mistake
        retries_now = False
        if self._retries_now:
            self._retries_now, retries_now = False, self._tries > 0
        if self._newest is not self._goal:
            self._goal, self._tries, retries_now = self._newest, 0, True
        if retries_now:
            self._due = time.monotonic()

    def _try(self, folder: KeptFolder, goal: Record, tell: Callable[[KeptVersion], None]) -> None:
        """Do a round; what failed is tried again after 1, 2, 4, … seconds. No error ends the loop."""
        unready = ""
        try:
            answer, problem = self._keeper.keep(folder, goal)
        except Exception as error:
            problem = error
        else:
            unready = answer.unready
            if not self._tries or answer.did_something:
                tell(answer)
        if isinstance(problem, ReplicaClosed):
            if not self._closing.is_set():
                events.given_up(self._channel.name, first_line(problem))
            return
        if unready and unready != self._unready:
            events.rollback_unready(unready)
        self._unready = unready
        self._due, self._tries = math.inf, self._tries + 1 if problem or unready else 0
        if self._tries:
            pause = min(_LONGEST_PAUSE, self._options.retry * 2 ** min(self._tries - 1, 20))
            self._due = time.monotonic() + pause
            if problem:
                events.follow_failed(stable_of(goal).version, first_line(problem), self._tries, pause)

"""Heartbeats: what each replica of a channel says of itself, in an object of its own.

They are for people, for `--wait` and for the garbage collector. Following a channel never needs them: a replica that
may not write serves all the same.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Literal

from pydantic import Field

from registry.errors import BadInput, BadManifest, ObjectNotFound, StoreDenied, UloraError
from registry.formats.document import Document
from registry.parallel import in_parallel
from registry.store import layout
from registry.store.objects import ObjectStore

EVERY = 10.0
"""Seconds between two heartbeats of a replica to which nothing happens."""
SILENT_AFTER = 3.5 * EVERY
"""Seconds after which nobody waits any more for a replica that says nothing."""
GONE_AFTER = 3600.0
"""Seconds after which a replica that says nothing counts as gone without a goodbye, and is no longer shown."""
MAX_REPLICAS = 10_000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0


class Heartbeat(Document):
    """What a replica says of itself.

    Attributes:
        id: the replica's own; a process that follows twice is two replicas.
        runtime: what computes its answers; empty before it answers by the version's own choice.
        generation: of the record that it serves, 0 before the first; `newest` is the last one it has seen.
        rollback_ready: whether the next rollback target is in its memory.
        resident: the versions in its memory: what the garbage collector must leave.
        error: why it does not serve the newest record, or another trouble; empty when all is well.
        when: UTC, ISO 8601, by the replica's clock.
    """

    LIMIT: ClassVar[int] = 64 * 1024

    format: Literal[1]
    id: str = Field(pattern=r"^[a-z0-9-]{1,120}$")
    host: str = Field(max_length=255)
    pid: int = Field(ge=0)
    device: str = Field(max_length=100)
    runtime: str = Field(default="", max_length=100)
    state: str = Field(max_length=40)
    version: str = Field(max_length=120)
    generation: int = Field(ge=0)
    newest: int = Field(ge=0)
    rollback_ready: bool
    resident: tuple[str, ...] = Field(max_length=100)
    error: str = Field(max_length=1000)
    when: str = Field(max_length=40)


@dataclass(frozen=True)
class Replica:
    """A replica as its heartbeat shows it. `age` is in seconds, by the server's clock."""

    heartbeat: Heartbeat
    age: float

    @property
    def silent(self) -> bool:
        """Whether it has said nothing for so long that something is wrong with it."""
        return self.age > SILENT_AFTER

    @property
    def gone(self) -> bool:
        """Whether it has said nothing for so long that its process has ended without a goodbye."""
        return self.age > GONE_AFTER


@dataclass(frozen=True)
class Followed:
    """Which replicas serve a generation (or a later one), which do not yet, and which say nothing."""

    followed: tuple[Replica, ...]
    behind: tuple[Replica, ...]
    silent: tuple[Replica, ...]


def replicas(store: ObjectStore, model: str, channel: str) -> list[Replica]:
    """The replicas of a channel, by id, without those that are gone. What is no heartbeat is left out.

    Raises:
        StoreUnreachable, StoreDenied.
    """
    return [replica for replica in all_replicas(store, model, channel) if not replica.gone]


def all_replicas(store: ObjectStore, model: str, channel: str) -> list[Replica]:
    """The replicas of a channel, by id, also those that are gone. What is no heartbeat is left out.

    Raises:
        StoreUnreachable, StoreDenied.
    """
    keys = [info.key for info in islice(store.list(layout.replicas(model, channel)), MAX_REPLICAS)]
    return sorted(_read(store, keys), key=lambda replica: replica.heartbeat.id)


def wait_for_replicas(store: ObjectStore, model: str, channel: str, generation: int, timeout: float = 30.0) -> Followed:
    """Wait until every replica that is not silent serves `generation`, at most `timeout` seconds.

    Only those that are behind are read again, less and less often: a large fleet does not flood the store. One that
    comes meanwhile is not waited for: it begins with the newest record.

    Raises:
        BadInput: `timeout` is negative or no number.
        StoreUnreachable, StoreDenied.
    """
    if not timeout >= 0:  # NaN neither
        raise BadInput(f"can't wait for {timeout} seconds", hint="give a number of seconds, 0 or more")
    deadline = time.monotonic() + timeout
    state = _sort(replicas(store, model, channel), generation)
    pause = _FIRST_PAUSE
    while state.behind and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
        again = _read(store, [layout.replica(model, channel, replica.heartbeat.id) for replica in state.behind])
        state = _sort([*state.followed, *again, *state.silent], generation)
    return state


class Heartbeats:
    """One replica's heartbeat: written on every change and every few seconds, removed at the end.

    A thread of its own writes it, so that a slow write delays neither following nor answering. A refused write ends it:
    the replica serves on without, and `note` says so.
    """

    def __init__(self, store: ObjectStore, model: str, channel: str, *, every: float = EVERY) -> None:
        self._store = store
        self._every = every
        self.id = _new_id()
        self._key = layout.replica(model, channel, self.id)
        self._due = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.note = ""

    def start(self, say: Callable[[str], Heartbeat]) -> None:
        """Begin; `say` is given the replica's id and returns what it has to say at this moment."""
        self._thread = threading.Thread(target=self._run, args=(say,), name="ulora-heartbeats", daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """Something happened that others should hear of soon."""
        self._due.set()

    def close(self, timeout: float = 5.0) -> None:
        """Remove the heartbeat; returns when that is done, or after `timeout` seconds."""
        self._closing.set()
        self._due.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self, say: Callable[[str], Heartbeat]) -> None:
        while not self._closing.is_set():
            self._due.clear()
            try:
                self._store.overwrite(self._key, say(self.id).to_bytes())
                self.note = ""
            except StoreDenied as error:
                self.note = f"no heartbeats: {error}"
                return
            except (UloraError, ValueError) as error:
                self.note = f"the last heartbeat was not written: {error}"[:500]
            self._due.wait(self._every * random.uniform(0.9, 1.1))  # noqa: S311  spreads the load, no secret
        with suppress(UloraError):
            self._store.delete(self._key)


def _new_id() -> str:
    host = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower())[:60]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


def _read(store: ObjectStore, keys: list[str]) -> list[Replica]:
    return [replica for replica in in_parallel(lambda key: _read_one(store, key), keys) if replica]


def _read_one(store: ObjectStore, key: str) -> Replica | None:
    try:
        stored = store.get(key, Heartbeat.LIMIT)
        heartbeat = Heartbeat.parse(stored.body, key)
    except (ObjectNotFound, BadManifest):
        # Said goodbye between the listing and now, or written by something else: neither may stop a rollback.
        return None
    return Replica(heartbeat, stored.age) if key.endswith(f"/{heartbeat.id}.json") else None


def _sort(found: list[Replica], generation: int) -> Followed:
    live = [replica for replica in found if not replica.silent]
    return Followed(
        followed=tuple(replica for replica in live if replica.heartbeat.generation >= generation),
        behind=tuple(replica for replica in live if replica.heartbeat.generation < generation),
        silent=tuple(replica for replica in found if replica.silent),
    )

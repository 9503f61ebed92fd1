"""Heartbeats: the state of each replica of a channel, written by the replica to its own object in the store.

People, `--wait` and the garbage collector read them. Following a channel does not need them: a replica that may not
write to the store still serves.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import ClassVar, Literal

from pydantic import Field

from registry.errors import (
    BadInput,
    BadManifest,
    NotGiven,
    ObjectNotFound,
    StoreDenied,
    UloraError,
    Unreachable,
    first_line,
)
from registry.formats.document import Document
from registry.machine import clock
from registry.parallel import in_parallel
from registry.serving.own_object import OwnObject, new_replica_id
from registry.serving.proof import MAX_COMPONENTS
from registry.store import layout
from registry.store.object_info import ObjectInfo
from registry.store.objects import ObjectStore
from registry.store.refusals import Refusals
from registry.store.storage import list_folder

EVERY = 10.0
"""Seconds between two heartbeats of a replica whose state does not change."""
SILENT_AFTER = 3.5 * EVERY
"""Seconds without a heartbeat after which `--wait` no longer waits for a replica."""
GONE_AFTER = 3600.0
"""Seconds without a heartbeat after which a replica counts as ended, and is no longer shown."""
MAX_REPLICAS = 2_000
"""Heartbeats of a channel that are read at most: those that were written last. Whoever may write them may write any
number."""
_MAX_LISTED = 100_000
_FEW = 64
"""Up to so many are read without asking the listing how old they are, which takes the server's clock: one call more."""
_DIGEST = r"^([0-9a-f]{64})?$"
_FIRST_PAUSE, _MAX_PAUSE = 0.1, 1.0


class Heartbeat(Document):
    """The state of a replica.

    Attributes:
        id: identifies the replica; a process that follows twice has two.
        runtime: the runtime that computes its answers; empty before the first version, if none was requested.
        generation: of the record that it serves, 0 before the first; `newest` is the newest that it has read.
        rollback_ready: whether the next rollback target is in its memory.
        resident: the versions in its memory, which the garbage collector must not delete.
        error: why it does not serve the newest record, or another problem; empty if there is none.
        loading: which loads run or hang, for how long, and at which step; earlier releases do not write it.
        manifest_sha256: of the version that it serves. Earlier releases write neither this nor what follows.
        weights_sha256, weights_count: one digest over those of the weights in memory, by component, and how many
            components these are; empty and 0 where its flavor does not tell. See `registry.serving.proof`.
        golden_sha256: the fingerprint of the outputs that its self-test computed; empty if there were none.
        proved: when the digests were computed, UTC, ISO 8601, by the replica's clock.
        canary: the version on trial, if it is in memory; empty if not. Earlier releases write neither this nor what
            follows.
        trial_problem: why this replica takes no part in the trial; empty if it does, or if there is none.
        observed: when its observations were written last, UTC, ISO 8601, by the replica's clock; empty before that.
        observations_problem: why they are not written; empty if they are.
        started: when the replica started, as `when`; empty from earlier releases.
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
    loading: str = Field(default="", max_length=300)
    manifest_sha256: str = Field(default="", pattern=_DIGEST)
    weights_sha256: str = Field(default="", pattern=_DIGEST)
    weights_count: int = Field(default=0, ge=0, le=MAX_COMPONENTS)
    golden_sha256: str = Field(default="", pattern=_DIGEST)
    proved: str = Field(default="", max_length=40)
    canary: str = Field(default="", max_length=120)
    trial_problem: str = Field(default="", max_length=500)
    observed: str = Field(default="", max_length=40)
    observations_problem: str = Field(default="", max_length=500)
    started: str = Field(default="", max_length=40)
    when: str = Field(max_length=40)


@dataclass(frozen=True)
class Replica:
    """A replica and its last heartbeat, which is `age` seconds old by the store's clock."""

    heartbeat: Heartbeat
    age: float

    @property
    def silent(self) -> bool:
        """Whether its heartbeat is so old that something is wrong with it."""
        return self.age > SILENT_AFTER

    @property
    def gone(self) -> bool:
        """Whether its heartbeat is so old that its process has ended without deleting it."""
        return self.age > GONE_AFTER


@dataclass(frozen=True)
class Followed:
    """The replicas that serve a generation (or a later one), those that do not yet, and those that are silent."""

    followed: tuple[Replica, ...]
    behind: tuple[Replica, ...]
    silent: tuple[Replica, ...]


def replicas(store: ObjectStore, model: str, channel: str) -> list[Replica]:
    """The replicas of a channel, by id, without those that are gone. One whose heartbeat can't be read has the state
    `unreadable`.

    Raises:
        StoreUnreachable, StoreDenied: the heartbeats can't be read.
    """
    infos = list(islice(list_folder(store, layout.replicas(model, channel)), _MAX_LISTED))
    if len(infos) > _FEW:  # a replica that is killed again and again leaves one each time
        since = store.now() - timedelta(seconds=GONE_AFTER)
        infos = [info for info in infos if info.modified is None or info.modified >= since]
    found = _read_all(store, _newest(infos))
    return [replica for replica in found if not replica.gone]


def all_replicas(store: ObjectStore, model: str, channel: str) -> list[Replica]:
    """The replicas of a channel, by id, with those that are gone; see `replicas`.

    Raises:
        StoreUnreachable, StoreDenied: the heartbeats can't be read.
    """
    return _read_all(store, _newest(islice(list_folder(store, layout.replicas(model, channel)), _MAX_LISTED)))


def wait_for_replicas(store: ObjectStore, model: str, channel: str, generation: int, timeout: float = 30.0) -> Followed:
    """Wait until every replica that is not silent serves `generation`, at most `timeout` seconds.

    Only the heartbeats of replicas that are behind are read again, less and less often, so that a large fleet does not
    flood the store. A replica that starts meanwhile begins with the newest record, so it need not be waited for.

    Raises:
        BadInput: `timeout` is negative or NaN.
        StoreUnreachable, StoreDenied: the heartbeats can't be read.
    """
    if not timeout >= 0:  # also refuses NaN
        raise BadInput(f"can't wait for {timeout} seconds", hint="give a number of seconds, 0 or more")
    deadline = time.monotonic() + timeout
    state = _sort(replicas(store, model, channel), generation)
    pause = _FIRST_PAUSE
    while state.behind and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        pause = min(2 * pause, _MAX_PAUSE)
        behind = [layout.replica(model, channel, replica.heartbeat.id) for replica in state.behind]
        again = _read(store, behind, Refusals())  # one that was refused is behind for ever
        state = _sort([*state.followed, *again, *state.silent], generation)
    return state


class Heartbeats(OwnObject):
    """Writes one replica's heartbeat on every change and every few seconds, and deletes it at the end."""

    def __init__(self, store: ObjectStore, model: str, channel: str, *, every: float = EVERY) -> None:
        self.id = new_replica_id()
        self.store, self.model, self.channel, self.every = store, model, channel, every
        self._started = clock.timestamp()
        super().__init__(store, layout.replica(model, channel, self.id), "heartbeats", lambda: every)

    def start(self, heartbeat: Callable[[str], Heartbeat]) -> None:
        """Start writing; `heartbeat` is called with the replica's id and returns its present heartbeat."""
        self.begin(lambda: heartbeat(self.id).model_copy(update={"started": self._started}))


def _newest(infos: Iterable[ObjectInfo]) -> list[str]:
    """The keys of those that were written last."""
    oldest = datetime.min.replace(tzinfo=UTC)
    last = heapq.nlargest(MAX_REPLICAS, infos, key=lambda info: info.modified or oldest)
    return [info.key for info in last]


def _read_all(store: ObjectStore, keys: list[str]) -> list[Replica]:
    return sorted(_read_first(store, keys), key=lambda replica: replica.heartbeat.id)


def _read_first(store: ObjectStore, keys: list[str]) -> list[Replica]:
    """Raises: StoreDenied: all heartbeats are refused; some alone are problems of their own."""
    refusals = Refusals()
    found = _read(store, keys, refusals)
    refusals.check(len(keys))
    return found


def _read(store: ObjectStore, keys: list[str], refusals: Refusals) -> list[Replica]:

    def read(key: str) -> Replica | None:
        try:
            return _read_one(store, key)
        except StoreDenied as error:
            if not isinstance(error, NotGiven):  # which is not about who asks
                refusals.note(error)
            return _unreadable(key, error, _age_of(store, key))

    return [replica for replica in in_parallel(read, keys) if replica]


def _read_one(store: ObjectStore, key: str) -> Replica | None:
    try:
        stored = store.get(key, Heartbeat.LIMIT)
    except ObjectNotFound:  # deleted since the listing
        return None
    except BadManifest as error:  # too large
        return _unreadable(key, error, _age_of(store, key))
    try:
        heartbeat = Heartbeat.parse(stored.body, key)
    except BadManifest as error:
        return _unreadable(key, error, stored.age)
    return Replica(heartbeat, stored.age) if key.endswith(f"/{heartbeat.id}.json") else None


def _age_of(store: ObjectStore, key: str) -> float:
    try:
        info = store.head(key)
    except StoreDenied:  # as the heartbeat itself is
        return 0.0
    except Unreachable:
        raise
    except UloraError:  # it may be encrypted with a key of its writer's
        return 0.0
    return (info.read_at - info.modified).total_seconds() if info and info.read_at and info.modified else GONE_AFTER


def _unreadable(key: str, error: UloraError, age: float) -> Replica:
    """Stands for a heartbeat that can't be read: a replica of which nothing is known is none that follows."""
    said = Heartbeat.model_construct(
        format=1, id=layout.stem(key)[:120], host="", pid=0, device="", state="unreadable", version="", generation=0,
        newest=0, rollback_ready=False, resident=(), error=f"its heartbeat can't be read: {first_line(error)}", when="",
    )  # fmt: skip
    return Replica(said, age)


def _sort(found: list[Replica], generation: int) -> Followed:
    live = [replica for replica in found if not replica.silent]
    return Followed(
        followed=tuple(replica for replica in live if replica.heartbeat.generation >= generation),
        behind=tuple(replica for replica in live if replica.heartbeat.generation < generation),
        silent=tuple(replica for replica in found if replica.silent),
    )

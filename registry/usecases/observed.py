"""What the store says of a channel that is watched: records, heartbeats, observations, each with its age.

Ages are by the store's clock alone. Replicas' clocks may be wrong: the windows of each are moved to the store's clock,
by the difference between when a replica says that it wrote its observations and when the store says so.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Generic, TypeVar

from registry.channels.channel import Channel
from registry.channels.record import Record
from registry.errors import BadManifest, ObjectNotFound, StoreUnreachable, UloraError, first_line
from registry.formats.document import Document
from registry.parallel import in_parallel
from registry.serving.fleet import GONE_AFTER, MAX_REPLICAS, Heartbeat
from registry.store import layout
from registry.store.object_info import ObjectInfo
from registry.store.objects import ObjectStore
from registry.store.storage import list_folder
from registry.trials.observations import WINDOW_SECONDS, ArmCounts, Observations, StageCounts, Window

MAX_RECORDS = 32
"""Records of a log that are looked at, besides the one that began the trial."""
_MAX_LISTED = 100_000
_TOLERANCE = 60
"""Seconds that a replica's clock may be wrong until its windows are moved: comparing times to the second moves them too
much."""
_ROUNDED = 2
"""Seconds by which times of the store may differ, as some are in whole seconds."""
_NOT_THERE = "the store lists it, and says that it is not there"
_EPOCH = datetime.min.replace(tzinfo=UTC)
Kind = TypeVar("Kind", bound=Document)


@dataclass(frozen=True)
class SeenObject(Generic[Kind]):
    """An object that a replica writes again and again.

    Attributes:
        id: of the replica, by the object's key.
        age: seconds since it was written.
        document: None if it can't be read; then `problem` says why.
    """

    id: str
    age: float
    document: Kind | None
    problem: str = ""


@dataclass(frozen=True)
class ChannelLook:
    """One look at a channel.

    Attributes:
        head: the newest record.
        records: those before it that were looked at, newest first.
        now: by the store's clock.
        written: when each record was written, by generation.
        left_out: heartbeats and observations beyond the most that are read.
        unread: why records from before the trial can't be read, by generation; they are not among `records`.
    """

    head: Record
    records: tuple[Record, ...]
    now: datetime
    written: Mapping[int, datetime]
    heartbeats: tuple[SeenObject[Heartbeat], ...] = ()
    observations: tuple[SeenObject[Observations], ...] = ()
    left_out: int = 0
    unread: Mapping[int, str] = field(default_factory=dict)

    def age(self, record: Record) -> int:
        """Whole seconds since a record was written."""
        return max(0, int((self.now - self.written[record.generation]).total_seconds()))


class WatchedChannel:
    """Looks at one channel again and again. What did not change since is not read again; nothing else is kept."""

    def __init__(self, store: ObjectStore, log: Channel) -> None:
        self._store, self._log = store, log
        self._records: dict[int, tuple[Record, datetime]] = {}
        self._heartbeats = _Folder(store, layout.replicas(log.model, log.name), Heartbeat, lambda one: one.id)
        self._observations = _Folder(
            store, layout.observations(log.model, log.name), Observations, lambda one: one.replica
        )

    def records(self) -> ChannelLook | None:
        """The newest records, without what replicas write; None while the log is empty.

        Raises:
            StoreUnreachable, StoreDenied: they can't be read.
            BadManifest, BrokenChain, ObjectNotFound: one of the trial is damaged, or missing.
        """
        head, age = self._log.head_and_age()
        if head is None:
            return None
        now = self._store.now()
        oldest = max(1, head.generation - MAX_RECORDS)
        trial = head.running_trial or head.baking
        needed = trial.started_generation if trial else head.generation
        began = [needed] if needed < oldest else []
        generations = [*range(head.generation - 1, oldest - 1, -1), *began]
        unread = self._read_records(generations, needed)
        found = [generation for generation in generations if generation in self._records]
        self._records = {generation: self._records[generation] for generation in found}
        written = {generation: when for generation, (_, when) in self._records.items()}
        return ChannelLook(
            head, tuple(self._records[generation][0] for generation in found), now,
            {head.generation: now - timedelta(seconds=max(0.0, age)), **written}, unread=unread,
        )  # fmt: skip

    def with_replicas(self, look: ChannelLook) -> ChannelLook:
        """The same with what the replicas of the channel say. An object that can't be read is told, and hides no other.

        Raises:
            StoreUnreachable, StoreDenied: they can't be listed, or the store does not answer.
        """
        hour_ago = look.now - timedelta(seconds=GONE_AFTER)
        heartbeats, unseen = self._heartbeats.read(look.now, hour_ago)
        observations, uncounted = self._observations.read(look.now, _began(look), _first_stage(look))
        return replace(
            look, heartbeats=tuple(heartbeats), observations=tuple(observations), left_out=unseen + uncounted
        )

    def _read_records(self, generations: Iterable[int], needed: int) -> dict[int, str]:
        """Read those that are not known; returns what is wrong with those before the one that is `needed`."""
        unread = dict[int, str]()

        def read(generation: int) -> None:
            key = layout.record(self._log.model, self._log.name, generation)
            try:
                stored = self._store.get(key, Record.LIMIT)
                self._records[generation] = Record.parse(stored.body, key), stored.modified
            except StoreUnreachable:
                raise
            except UloraError as error:
                if generation >= needed:
                    raise
                unread[generation] = first_line(error)

        in_parallel(read, [generation for generation in generations if generation not in self._records])
        return unread


def _began(look: ChannelLook) -> datetime:
    """When the trial began: what was written last before that tells nothing of it. All time, if that is not known."""
    written = look.written.get(_first_stage(look))
    return written - timedelta(seconds=_ROUNDED) if written else _EPOCH


def _first_stage(look: ChannelLook) -> int:
    """The generation that began the trial; 0 if it is not known when that was, as all trials are looked at then."""
    trial = look.head.running_trial or look.head.baking
    return trial.started_generation if trial and trial.started_generation in look.written else 0


class _Folder(Generic[Kind]):
    """The documents that replicas write into a folder; those with the same ETag as before are not read again."""

    def __init__(self, store: ObjectStore, folder: str, kind: type[Kind], id_of: Callable[[Kind], str]) -> None:
        self._store, self._folder, self._kind, self._id_of = store, folder, kind, id_of
        self._known: dict[str, tuple[str, Kind | None, str]] = {}

    def read(self, now: datetime, since: datetime, first: int = 0) -> tuple[list[SeenObject[Kind]], int]:
        """The newest of those written since then, in the order of their ids, and how many of these are left out.

        Args:
            first: stages of earlier generations are dropped: a replica keeps those of its last trials.
        """
        listed = islice(list_folder(self._store, self._folder), _MAX_LISTED)
        infos = [info for info in listed if info.modified is None or info.modified >= since]
        newest = heapq.nlargest(MAX_REPLICAS, infos, key=lambda info: info.modified or _EPOCH)
        newest.sort(key=lambda info: info.key)
        in_parallel(lambda info: self._fetch(info, first), [info for info in newest if not self._is_known(info)])
        self._forget_deleted()
        self._known = {info.key: self._known[info.key] for info in newest if info.key in self._known}
        found = [self._seen(info, now) for info in newest if info.key in self._known]
        return found, len(infos) - len(newest)

    def _is_known(self, info: ObjectInfo) -> bool:
        return info.key in self._known and bool(info.etag) and self._known[info.key][0] == info.etag

    def _fetch(self, info: ObjectInfo, first: int) -> None:
        try:
            stored = self._store.get(info.key, self._kind.LIMIT)
            document = self._kind.parse(stored.body, info.key)
            if self._id_of(document) != layout.stem(info.key):
                raise BadManifest(f"{info.key} is of {self._id_of(document)}")
            if isinstance(document, Observations):
                document = by_the_stores_clock(_since(document, first), stored.modified)  # type: ignore[assignment]
            self._known[info.key] = stored.etag, document, ""
        except ObjectNotFound:
            self._known[info.key] = "", None, _NOT_THERE
        except StoreUnreachable:
            raise
        except UloraError as error:
            self._known[info.key] = "", None, first_line(error)

    def _forget_deleted(self) -> None:
        """What was not there any more is forgotten only if it is not listed any more either: who lists an object and
        does not give it hides what its replica says."""
        gone = {key for key, (_, _, problem) in self._known.items() if problem == _NOT_THERE}
        if gone:
            listed = {info.key for info in islice(list_folder(self._store, self._folder), _MAX_LISTED)}
            self._known = {key: known for key, known in self._known.items() if key not in gone - listed}

    def _seen(self, info: ObjectInfo, now: datetime) -> SeenObject[Kind]:
        _, document, problem = self._known[info.key]
        age = (now - (info.modified or _EPOCH)).total_seconds()
        return SeenObject(layout.stem(info.key)[:120], max(0.0, age), document, problem)


def _since(counted: Observations, first: int) -> Observations:
    """Observations without the stages of generations before this one."""
    return counted.model_copy(update={"stages": tuple(each for each in counted.stages if each.generation >= first)})


def by_the_stores_clock(counted: Observations, written: datetime) -> Observations:
    """Observations with the times of their windows by the store's clock, if the replica's is wrong by a minute or more.

    Raises:
        BadManifest: they do not say when they were written.
    """
    try:
        said = datetime.fromisoformat(counted.when).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadManifest(f"observations of {counted.replica} do not say when they were written") from error
    ahead = (said - written).total_seconds()
    if abs(ahead) < _TOLERANCE:
        return counted
    move = round(ahead / WINDOW_SECONDS)
    return counted.model_copy(update={"stages": tuple(_moved_stage(stage, move) for stage in counted.stages)})


def _moved_stage(stage: StageCounts, move: int) -> StageCounts:
    return stage.model_copy(update={"arms": {name: _moved_arm(arm, move) for name, arm in stage.arms.items()}})


def _moved_arm(arm: ArmCounts, move: int) -> ArmCounts:
    return arm.model_copy(update={"windows": tuple(_moved(window, move) for window in arm.windows)})


def _moved(window: Window, move: int) -> Window:
    return window._replace(at=max(0, window.at - move))

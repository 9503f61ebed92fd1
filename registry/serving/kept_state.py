"""What a replica keeps on its machine's disk, so that it can start again while the store does not answer.

In the cache folder, for each store, model and channel: the last record that was served, and the documents that were
read to load its version: the manifest, and what admitted it. Whoever may write to a shared cache may put anything
there: so no link is followed, what is read is bounded, and a start checks all of it as if it came from the store.
"""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from registry.channels.record import Record
from registry.errors import BadManifest, StoreUnreachable, first_line
from registry.formats import canonical
from registry.formats.cache_files import opened_folder, read_bounded, remove_abandoned, write_whole
from registry.formats.document import Document, Sha256
from registry.serving import events
from registry.serving.loaders import Loaded
from registry.serving.loads import LoadPointer
from registry.serving.steps import Steps
from registry.store.kept_documents import Documents, KeptStore, NotingStore, packed, unpacked
from registry.store.objects import ObjectStore
from registry.versions.pointer import Pointer

CONFIRM_EVERY = 600.0
"""Seconds between two writes that only say that the record is still the newest."""
_FOLDER = "states"
_MAX_AHEAD = 300.0
"""Seconds by which clocks may differ: a state that was confirmed later than now is of no known age."""
_LOCK_SECONDS, _LOCK_POLL = 2.0, 0.02
"""How long other processes that write a state are waited for."""


@dataclass(frozen=True)
class StatePlace:
    """Whose state it is, and in which cache folder. `endpoint` is the address of the S3 server, empty for AWS's own."""

    cache: Path
    store: str
    endpoint: str
    model: str
    channel: str

    @property
    def owner(self) -> dict[str, str]:
        """Whose state it is."""
        return {"store": self.store, "endpoint": self.endpoint, "model": self.model, "channel": self.channel}

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"{canonical.digest(self.owner)[:32]}.json"

    @property
    def path(self) -> Path:
        """The file."""
        return self.cache / _FOLDER / self.name


class KeptState(Document):
    """What a replica served last.

    Attributes:
        store, endpoint, model, channel: whose state it is.
        confirmed: when the record was last read as the newest of the log.
        record: the record's own bytes, which are text.
        documents: what was read to load its stable version, and the canary if that was in memory, by key of the store,
            in base64; null where no object had the key.
        digest: of all other fields.
    """

    LIMIT: ClassVar[int] = 32 * 1024 * 1024

    format: Literal[1]
    store: str = Field(max_length=2048)
    endpoint: str = Field(max_length=2048)
    model: str = Field(max_length=100)
    channel: str = Field(max_length=64)
    confirmed: AwareDatetime
    record: str = Field(max_length=Record.LIMIT)
    documents: dict[str, str | None] = Field(max_length=10_000)
    digest: Sha256

    @classmethod
    def make(cls, place: StatePlace, record: Record, documents: Documents, confirmed: datetime) -> Self:
        """The state of a replica.

        Raises:
            BadManifest: it exceeds its limits.
        """
        fields = {
            "format": cls.FORMAT,
            **place.owner,
            "confirmed": confirmed.isoformat(timespec="milliseconds"),
            "record": record.to_bytes().decode(),
            "documents": packed(documents),
        }
        return cls.parse(canonical.encode({**fields, "digest": canonical.digest(fields)}), "the state")

    @classmethod
    def parse(cls, data: bytes, what: str) -> Self:
        """Read a state's bytes.

        Raises:
            BadManifest: they are damaged, or do not follow the format.
        """
        state = super().parse(data, what)
        fields = canonical.decode(data, what, cls.LIMIT)
        if fields.pop("digest") != canonical.digest(fields):
            raise BadManifest(f"{what} is damaged: its digest does not match")
        record = Record.parse(state.record.encode(), f"the record in {what}")
        if (record.model, record.channel) != (state.model, state.channel) or record.stable is None:
            raise BadManifest(f"{what} has the record of another channel, or of one that serves nothing")
        return state

    @model_validator(mode="after")
    def _check_documents(self) -> Self:
        self.contents()
        return self

    def contents(self) -> Documents:
        """The documents' bytes, by key."""
        return unpacked(self.documents)

    def served(self) -> Record:
        """The record."""
        return Record.parse(self.record.encode(), "the kept record")

    @property
    def age(self) -> float:
        """Seconds since the record was last confirmed, by this machine's clock; negative if it was set back since."""
        return (datetime.now(UTC) - self.confirmed).total_seconds()

    @property
    def is_of_future(self) -> bool:
        """Whether nobody can tell its age, because clocks differ."""
        return self.age < -_MAX_AHEAD


def read_state(place: StatePlace) -> KeptState | None:
    """The state that is kept in a place, None if there is none.

    Raises:
        BadManifest: it can't be read, is damaged, or is that of another store, model or channel.
    """
    what = f"the kept state {place.path}"
    try:
        with opened_folder(place.cache, _FOLDER) as folder:
            body = read_bounded(folder, place.name, KeptState.LIMIT)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadManifest(f"{what} can't be read: {error.strerror or error}") from error
    state = KeptState.parse(body, what)
    owner: dict[str, Any] = {name: getattr(state, name) for name in place.owner}
    if owner != place.owner:
        raise BadManifest(f"{what} is that of {state.model} {state.channel} in {state.store} {state.endpoint}".rstrip())
    return state


def write_state(place: StatePlace, state: KeptState) -> None:
    """Keep a state, unless one that was confirmed later is kept. Whatever interrupts it, the old one or the new one is
    there.

    Raises:
        OSError: the place can't be written, or another process holds its lock for too long.
    """
    with opened_folder(place.cache, _FOLDER, make=True) as folder:
        _lock(folder)
        if not _is_newer(place, state):
            remove_abandoned(folder)
            write_whole(folder, place.name, [state.to_bytes()], sync=True)


def _lock(folder: int) -> None:
    """Lock a folder until its descriptor is closed."""
    ends = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= ends:
                raise
        time.sleep(_LOCK_POLL)


def _is_newer(place: StatePlace, state: KeptState) -> bool:
    """Whether what another replica keeps there was confirmed later."""
    with suppress(BadManifest):
        found = read_state(place)
        return found is not None and found.confirmed > state.confirmed and not found.is_of_future
    return False


def _of_version(state: KeptState | None, pointer: Pointer) -> KeptState | None:
    """A state if its record serves a version, as stable or on trial, else None."""
    record = state.served() if state else None
    served = (record.stable, record.canary) if record else ()
    return state if pointer.manifest_sha256 in [one.manifest_sha256 for one in served if one] else None


class StateKeeper:
    """Keeps what one replica serves, in a thread of its own, and loads from it where the store did not answer.

    Several replicas of a machine may share a place: each writes only what it has just read as the newest record.

    Attributes:
        problem: why no kept state can be used, after `find`.
        note: why the state is not kept; empty if it is.
    """

    def __init__(
        self, place: StatePlace, store: ObjectStore, load_through: Callable[[ObjectStore], LoadPointer], *,
        max_age: float, every: float = CONFIRM_EVERY,
    ) -> None:  # fmt: skip
        """Args:
        load_through: gives the function that loads versions from a store.
        max_age: seconds after which a state is refused, since its record was last confirmed as the newest.
        every: seconds between two writes while nothing changes.
        """
        self._place = place
        self._store = store
        self._load_through = load_through
        self._max_age = max_age
        self._every = every
        self._found: KeptState | None = None
        self._began_with: KeptState | None = None
        self._documents: dict[str, Documents] = {}
        self._confirmed: tuple[Record, datetime] | None = None
        self._due = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ulora-state", daemon=True)
        self.problem = self.note = ""

    # --- start without the store -------------------------------------------------------------------------------------

    def find(self) -> KeptState | None:
        """The state that a start without the store may begin with; None if there is none: `problem` says why."""
        try:
            state = read_state(self._place)
        except BadManifest as error:
            self.problem = f"{error}; it is not used"
            events.state_unusable(self.problem)
            return None
        none = f"this machine keeps no state to start from in {self._place.path}"
        self.problem = self._too_old(state) if state else none
        self._found = None if self.problem else state
        return self._found

    def begin_with(self, state: KeptState) -> str:
        """Load the state's version from what is kept, until the store answers. Return where that comes from."""
        self._began_with = self._found = state
        return (
            f"started from the kept state {self._place.path}, whose generation {state.served().generation} was last "
            f"confirmed as the newest at {state.confirmed.isoformat(timespec='seconds')}"
        )

    def load(self, pointer: Pointer, steps: Steps) -> Loaded:
        """Load a version, and note what was read for it; see `registry.serving.loaders.load_version`.

        Raises:
            StoreUnreachable: the store does not answer, or this replica began without it; and this machine lacks
                something of the version.
        """
        if begun := _of_version(self._began_with, pointer):
            return self._load_kept(begun, pointer, steps)
        store = NotingStore(self._store)
        try:
            loaded = self._load_through(store)(pointer, steps)
        except StoreUnreachable as error:
            found = _of_version(self._found, pointer)
            if not found:
                raise
            # It has named this version, and stopped to answer since.
            steps.note(f"{pointer.version} is loaded from what this machine keeps: {error}")
            return self._load_kept(found, pointer, steps)
        self._documents[pointer.manifest_sha256] = store.documents
        return loaded

    def _load_kept(self, state: KeptState, pointer: Pointer, steps: Steps) -> Loaded:
        documents = state.contents()
        loaded = self._load_through(KeptStore(self._place.store, documents))(pointer, steps)
        self._documents[pointer.manifest_sha256] = documents
        return loaded

    def _too_old(self, state: KeptState) -> str:
        what = (
            f"the kept state {self._place.path} was last confirmed at {state.confirmed.isoformat(timespec='seconds')}"
        )
        if state.age > self._max_age:
            return f"{what}, {state.age:.0f} s ago, more than the {self._max_age:.0f} s of --max-cache-age"
        return f"{what}, which is in the future: is this machine's clock right?" if state.is_of_future else ""

    # --- keeping -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start keeping what is confirmed."""
        self._thread.start()

    def confirm(self, record: Record, when: datetime, needed: Iterable[Pointer]) -> None:
        """This record, which is served, was the newest of the log at this time. `needed` are the versions in memory."""
        self._began_with = self._found = None
        digests = {pointer.manifest_sha256 for pointer in needed}
        for digest in set(self._documents) - digests:
            del self._documents[digest]
        before, self._confirmed = self._confirmed, (record, when)
        if before is None or before[0].generation != record.generation:
            self._due.set()

    def stop(self) -> None:
        """Begin to keep the state for the last time; `close` waits for it."""
        self._closing.set()
        self._due.set()

    def close(self, timeout: float) -> None:
        """Keep the state for the last time; returns when that is done, or after `timeout` seconds."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        written, is_last = None, False
        while not is_last:
            self._due.wait(self._every)
            self._due.clear()
            is_last = self._closing.is_set()
            if self._confirmed and self._confirmed is not written:
                written = self._confirmed
                self._keep(*written)

    def _keep(self, record: Record, confirmed: datetime) -> None:
        note = ""
        try:
            write_state(self._place, KeptState.make(self._place, record, self._documents_of(record), confirmed))
        except Exception as error:  # of any kind: it serves on, only a start without the store will not work
            reason = error.strerror if isinstance(error, OSError) else ""
            note = f"no state is kept in {self._place.path}: {reason or first_line(error)}"[:500]
        if note and note != self.note:
            events.state_not_kept(note)
        self.note = note

    def _documents_of(self, record: Record) -> Documents:
        """What was read to load the versions that a record serves. Without the canary's, stable serves alone."""
        documents = dict(self._documents[record.stable.manifest_sha256]) if record.stable else {}
        if record.canary:
            documents |= self._documents.get(record.canary.manifest_sha256, {})
        return documents

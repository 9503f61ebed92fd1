"""A channel: a create-only log in S3. The commit creates the key of the next generation; nothing is overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from registry.channels.committed import sending, told
from registry.channels.record import UNREADABLE, Author, ChannelPosition, Record, aborted, rolled_back
from registry.errors import (
    BadInput,
    BadManifest,
    BrokenChain,
    ChannelMoved,
    KeyExists,
    NotFound,
    NothingToRollBackTo,
    NotNow,
    ObjectNotFound,
    Overwritten,
    VersionNotFound,
)
from registry.names import check_channel, is_channel_name
from registry.parallel import in_parallel
from registry.store import layout
from registry.store.objects import ObjectStore
from registry.store.refusals import as_listed

REPEAT_SECONDS = 60.0
"""Seconds after a rollback during which another one without arguments is refused as a likely repetition."""
MAX_RACES = 20
"""How often a change is tried again after another writer was first."""
BACKWARD_ACTIONS = ("rollback", "abort")
"""The actions that go back to an earlier version."""
_BATCH = 64
_MAX_JUNK = 10_000
"""How many objects before the first record of a log are passed over."""


@dataclass(frozen=True)
class PromoteOptions:
    """How a promotion is made.

    Attributes:
        force: overrule the gates; needs a reason. The refused verdict is kept with it.
        expected: the generation that the caller saw; any other is `ChannelMoved`.
    """

    force: bool = False
    expected: int | None = None


@dataclass(frozen=True)
class RollbackOptions:
    """The options of a rollback.

    Attributes:
        leave: the version to stop serving. If it is not served any more, nothing is done; but if `to` is given too and
            not served, that is `ChannelMoved`.
        expected: the generation that the caller saw: stop serving its canary, or its stable version if it has none.
        to: a version on the stack; all versions above it are withdrawn.
        again: roll back although another rollback happened less than a minute ago.
        leave_stable: while a canary runs, withdraw stable too.
    """

    leave: str | None = None
    expected: int | None = None
    to: str | None = None
    again: bool = False
    leave_stable: bool = False

    def __post_init__(self) -> None:
        """Raises: BadInput: options contradict each other, or a version's name is empty."""
        if any(name is not None and not name.strip() for name in (self.leave, self.to)):
            raise BadInput(
                "a version's name is empty", hint="is a shell variable empty? `ulora status` shows the names"
            )
        if self.leave is not None and self.leave == self.to:
            raise BadInput(f"{self.to} can't be both the version to leave and the version to go to")
        if self.leave is not None and self.expected is not None:
            raise BadInput("give either the version to leave or the expected generation, not both")

    def is_reached(self, head: Record) -> bool:
        """Whether the channel is already in the requested state."""
        if self.leave is not None:
            return self.leave not in head.live()
        return self.to is not None and head.live() == (self.to,)

    def names_no_version(self) -> bool:
        """Whether it names neither a version to leave nor one to go to."""
        return self.leave is None and self.expected is None and self.to is None

    def is_bare(self) -> bool:
        """Whether it could be a repetition of a rollback that has just happened."""
        return self.names_no_version() and not self.again

    def ends_trial(self, head: Record) -> bool:
        """Whether it concerns the canary only."""
        return (
            head.canary is not None
            and not self.leave_stable
            and self.to in (None, head.stable.version if head.stable else None)
            and self.leave in (None, head.canary.version)
        )


@dataclass(frozen=True)
class Rollback:
    """What a rollback did, or would do.

    Attributes:
        record: the record that was written; the newest one if nothing had to be done.
        left: the version that is not served any more, or the empty string.
        changed: whether this call wrote a record.
    """

    record: Record
    left: str
    changed: bool


def channel_names(store: ObjectStore, model: str) -> list[str]:
    """The names of a model's channels, scratch channels included, and of other folders with objects next to them.

    Folders without objects are skipped: some servers list a folder after its objects were deleted.
    """
    names = store.folders(layout.channels(model))
    return sorted(name for name in names if is_channel_name(name) or store.first(layout.channel(model, name)))


class Channel:
    """The log of one channel of one model."""

    def __init__(self, store: ObjectStore, model: str, name: str) -> None:
        self._store = store
        self.model = model
        self.name = check_channel(name)
        self._exists = 0
        """The newest generation that other writers are known to have written: a listing may lag behind it."""

    # --- reading -----------------------------------------------------------------------------------------------------

    def head(self) -> Record | None:
        """The newest record, None if the log is empty. Two round trips: LIST, GET."""
        return self.head_and_age()[0]

    @as_listed()
    def head_and_age(self) -> tuple[Record | None, float]:
        """The newest record and its age in seconds by the server's clock. Raises: NotAsListed, or as `read`."""
        listed = self._listed()
        if listed < self._exists:
            return self._newest_from(self._exists)
        return self._read(listed) if listed else (None, 0.0)

    def is_newest(self, head: Record | None) -> bool:
        """Whether no record follows, whatever the listing showed. One round trip. If one does, `head` finds it now."""
        generation = head.generation if head else 0
        is_newest = self.next(generation) is None
        self._exists = max(self._exists, generation + (not is_newest))
        return is_newest

    def check_newest(self, head: Record) -> None:
        """Check that no record follows, whatever the listing showed. One round trip.

        Raises:
            ChannelMoved: one does.
        """
        if not self.is_newest(head):
            raise self._moved(head.generation + 1)

    def next(self, generation: int) -> Record | None:
        """The record after a generation, None if there is none yet. One round trip."""
        try:
            return self.read(generation + 1)
        except ObjectNotFound:
            return None

    def read(self, generation: int) -> Record:
        """One record.

        Raises:
            ObjectNotFound: there is no such generation.
            BadManifest: it does not follow the format.
            BrokenChain: it is the record of another channel or generation.
        """
        return self._read(generation)[0]

    def broken_link(self, newer: Record) -> str:
        """Why a record does not continue the log before it, in words; empty if it does. One round trip."""
        if newer.generation == 1:
            return "" if newer.previous is None else f"generation 1 of {self.name} names a record before it"
        try:
            check_link(self.read(newer.generation - 1), newer)
        except (ObjectNotFound, BadManifest, BrokenChain) as error:
            return str(error)
        return ""

    @as_listed()
    def history(self, limit: int | None = None) -> list[Record]:
        """The records, newest first, each checked against the one after it.

        Raises:
            BrokenChain: a record is missing, or its sha256 is not the `previous` of the next one.
            NotAsListed: a record is listed that is not there.
        """
        records: list[Record] = []
        generations = self.generations(limit)
        while batch := list(islice(generations, _BATCH)):
            for record in in_parallel(self.read, batch):
                if records:
                    check_link(record, records[-1])
                records.append(record)
        if records and limit is None:
            check_begin(records[-1])
        return records

    def generations(self, limit: int | None = None) -> Iterator[int]:
        """The generations by the store's listing, newest first. Raises: BrokenChain: an object there is no record."""
        keys = (info.key for info in self._store.list(layout.channel(self.model, self.name)))
        return map(_generation, islice(keys, limit))

    # --- writing -----------------------------------------------------------------------------------------------------

    def commit(self, record: Record) -> None:
        """Append a record: one conditional write.

        Raises:
            ChannelMoved: another writer was first. Nothing changed.
            OutcomeUnknown: the store did not answer in time.
        """
        key, body = layout.record(self.model, self.name, record.generation), record.to_bytes()
        try:
            with sending(self.name, " with ".join(record.live()) or "nothing", record.generation):
                self._store.create(key, body)
        except KeyExists as error:
            raise self._moved(record.generation) from error

    def confirm(self, record: Record) -> str:
        """Check that the log holds a record that was just committed, see `ObjectStore.confirm`. Never in a rollback.

        Raises:
            Overwritten: it does not, or the record may have replaced another's.
        """
        key = layout.record(self.model, self.name, record.generation)
        try:
            return self._store.confirm(key, record.to_bytes())
        except Overwritten as error:
            told()
            raise Overwritten(
                f"generation {record.generation} of {self.name}: {error}",
                hint=f"{error.hint}; compare `ulora history --channel {self.name}` with what people remember",
            ) from error

    def plan_rollback(self, author: Author, options: RollbackOptions, *, sure: bool = False) -> Rollback:
        """What a rollback would write now; `changed` is False if nothing has to be done. Two round trips; one more
        before it says that nothing has to be done, or nothing can be, or to be `sure`, as a listing may be out of date.

        Raises:
            NothingToRollBackTo: the stack is empty, or `options.to` is not on it.
            NotNow: a rollback without arguments less than a minute after another.
            ChannelMoved: `options.leave` is not served any more, but `options.to` is not served either.
            VersionNotFound: `options.leave` was never served here.
            NotFound: `options.expected` is not in the log.
        """
        head, age = self.head_and_age()
        if (sure or (head and self._may_be_old(head, options))) and not self.is_newest(head):
            head, age = self.head_and_age()
        options = self.resolve(options, head)
        if head and options.is_reached(head):
            check_reached(head, options)
            return Rollback(head, options.leave or "", changed=False)
        if head and options.is_bare():
            refuse_repeat(head, age)
        position = ChannelPosition(self.model, self.name, head)
        if head and head.canary and options.ends_trial(head):
            return Rollback(aborted(position, author), head.canary.version, changed=True)
        left = head.stable.version if head and head.stable else ""
        try:
            return Rollback(rolled_back(position, author, options.to), left, changed=True)
        except NothingToRollBackTo:
            if sure or self.is_newest(head):
                raise
        return self.plan_rollback(author, options, sure=True)

    def rollback(self, author: Author, options: RollbackOptions) -> Rollback:
        """Roll back: end a running trial, else make the top of the stack stable. Three round trips: LIST, GET, PUT.

        If another writer is first, the new state is checked again, from that writer's record on, whatever the listing
        shows: if it left the same version, nothing remains to do.

        Raises:
            NothingToRollBackTo: the stack is empty, or `options.to` is not on it. Nothing changed.
            NotNow: a rollback without arguments less than a minute after another. Nothing changed.
            ChannelMoved: another person promoted meanwhile, and the options do not name a version to leave; or
                `options.leave` is not served any more, but `options.to` is not served either. Nothing changed.
            VersionNotFound: `options.leave` was never served here. Nothing changed.
            NotFound: `options.expected` is not in the log. Nothing changed.
            OutcomeUnknown: the store did not answer in time whether the record was written.
        """
        for _ in range(MAX_RACES):
            plan = self.plan_rollback(author, options)
            if not plan.changed:
                return plan
            try:
                self.commit(plan.record)
            except ChannelMoved:
                if options.names_no_version() and self.read(plan.record.generation).action not in BACKWARD_ACTIONS:
                    raise  # another person promoted: only the caller can decide whether to leave that version too
                options = options if options.to else replace(options, leave=plan.left, expected=None)
                continue
            return plan
        raise NotNow(f"{self.name} moved {MAX_RACES} times during the rollback", hint="see `ulora history`")

    # --- parts -------------------------------------------------------------------------------------------------------

    def _read(self, generation: int) -> tuple[Record, float]:
        key = layout.record(self.model, self.name, generation)
        try:
            stored = self._store.get(key, Record.LIMIT)
            record = Record.parse(stored.body, key)
        except BadManifest as error:
            raise BadManifest(str(error), hint=error.hint or UNREADABLE) from error
        if (record.model, record.channel, record.generation) != (self.model, self.name, generation):
            raise BrokenChain(
                f"{key} has the record of {record.model} {record.channel}, generation {record.generation}",
                hint=UNREADABLE,
            )
        return record, stored.age

    def _listed(self) -> int:
        """The newest generation by the store's listing, 0 if it is empty."""
        folder = layout.channel(self.model, self.name)
        key = self._store.first(folder)
        # Junk, e.g. of a program that syncs folders, stops no rollback.
        if key and not layout.is_record(folder, key):
            keys = (info.key for info in islice(self._store.list(folder), _MAX_JUNK))
            key = next((other for other in keys if layout.is_record(folder, other)), key)
        return _generation(key) if key else 0

    def _newest_from(self, generation: int) -> tuple[Record, float]:
        """The newest record and its age, found by name from a generation that exists."""
        found = self._read(generation)
        try:
            while True:
                found = self._read(found[0].generation + 1)
        except ObjectNotFound:
            return found

    def _may_be_old(self, head: Record, options: RollbackOptions) -> bool:
        """Whether what would be said of a record is wrong if a later one exists: that it is done, or not there yet."""
        return (options.expected or 0) > head.generation or self.resolve(options, head).is_reached(head)

    def resolve(self, options: RollbackOptions, head: Record | None) -> RollbackOptions:
        """Replace `expected` by the version to leave.

        Raises:
            NotFound: there is no such generation.
        """
        if options.expected is None or head is None:
            return options
        if not 1 <= options.expected <= head.generation:
            raise NotFound(
                f"{self.name} has no generation {options.expected}, the newest is {head.generation}; nothing changed",
                hint=f"see `ulora history --channel {self.name}`",
            )
        seen = head if head.generation == options.expected else self.read(options.expected)
        served = seen.live()
        return replace(options, expected=None, leave=served[-1] if served else None)

    def _moved(self, generation: int) -> ChannelMoved:
        self._exists = generation
        winner = self.read(generation)
        to = winner.stable.version if winner.stable else "nothing"
        moved = (
            f"{winner.who} moved {self.model} {self.name} first: {winner.action} to {to}, generation {generation}, "
            f"{winner.when}; nothing changed"
        )
        listed = self._listed()
        if listed < generation:
            return ChannelMoved(
                f"{moved}; the store's listing is out of date: it still ends at generation {listed}",
                hint="run it again when the listing is up to date; is a cache or a replica in front of the store?",
            )
        return ChannelMoved(moved, hint=f"see `ulora history --channel {self.name}`, then decide again")


def check_begin(first: Record) -> None:
    """Check that a log can begin with a record. Raises: BrokenChain: it can't."""
    if (first.generation, first.previous) != (1, None):
        raise BrokenChain(f"the log of {first.channel} begins at generation {first.generation} instead of 1")


def check_link(older: Record, newer: Record) -> None:
    """Check that `newer` directly follows `older`.

    Raises:
        BrokenChain: it does not.
    """
    if older.generation + 1 != newer.generation:
        raise BrokenChain(f"generation {newer.generation} of {newer.channel} follows generation {older.generation}")
    if newer.previous != older.sha256:
        raise BrokenChain(
            f"generation {older.generation} of {older.channel} does not hash to what generation {newer.generation} says"
            f": {older.sha256[:12]}, not {newer.previous[:12] if newer.previous else 'nothing'}"
        )


def check_reached(head: Record, options: RollbackOptions) -> None:
    """Check that options that need no change are not a mistake.

    Raises:
        VersionNotFound: `options.leave` was never served here.
        ChannelMoved: it is not served any more, but `options.to` is not served either.
    """
    known = {*head.withdrawn, *head.live(), *(pointer.version for pointer in head.stack)}
    if options.leave is not None and options.leave not in known:
        serves = " and ".join(head.live()) or "nothing"
        raise VersionNotFound(
            f"{head.channel} does not serve {options.leave} and did not serve it recently; nothing changed",
            hint=f"it serves {serves}",
        )
    if options.to is not None and head.live() != (options.to,):
        raise ChannelMoved(
            f"{head.channel} serves neither {options.leave} nor {options.to} ({head.action} by {head.who}, "
            f"{head.when}); nothing changed",
            hint=f"`ulora rollback --channel {head.channel} --to {options.to}` goes there",
        )


def refuse_repeat(head: Record, age: float) -> None:
    """Check that a rollback without arguments is not a repetition of one that has just happened.

    Raises:
        NotNow: it may be a repetition.
    """
    if head.action in BACKWARD_ACTIONS and age < REPEAT_SECONDS:
        serves = head.stable.version if head.stable else "nothing"
        step = f"--from {serves}, or --again" if head.stable else "--again"
        raise NotNow(
            f"{head.who} rolled {head.channel} back {max(age, 0):.0f} s ago; it serves {serves} now; nothing changed",
            hint=f"to go back one more version: {step}",
        )


def _generation(key: str) -> int:
    try:
        return layout.generation(key)
    except ValueError as error:
        raise BrokenChain(f"{error}: the log has an object that is not a record") from error

"""A channel: a create-only log in S3. Creating the next generation's key is the commit; nothing is ever overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from registry.channels.record import Author, ChannelPosition, Record, aborted, rolled_back
from registry.errors import (
    BadInput,
    BrokenChain,
    ChannelMoved,
    KeyExists,
    NotFound,
    NotNow,
    ObjectNotFound,
    VersionNotFound,
)
from registry.names import check_channel, is_channel_name
from registry.parallel import in_parallel
from registry.store import layout
from registry.store.objects import ObjectStore

JUST_NOW = 60.0
"""Seconds after a rollback in which another bare one is taken for the same wish."""
RACES = 20
"""How often a change that lost its race is looked at again."""
BACK = ("rollback", "abort")
"""The actions that go back."""
_BATCH = 64


@dataclass(frozen=True)
class RollbackOptions:
    """What a rollback is asked for.

    Attributes:
        leave: the version to get away from. When it is not served any more, there is nothing to do; unless `to` is
            given too and not reached, which is `ChannelMoved`.
        expected: the generation that the caller saw; means: leave what it had put on trial or made stable.
        to: a version on the stack; all above it is withdrawn.
        again: go back although another rollback happened less than a minute ago.
        leave_stable: with a trial running, leave stable too.
    """

    leave: str | None = None
    expected: int | None = None
    to: str | None = None
    again: bool = False
    leave_stable: bool = False

    def __post_init__(self) -> None:
        """Raises: BadInput: it contradicts itself, or names a version by nothing."""
        if any(name is not None and not name.strip() for name in (self.leave, self.to)):
            raise BadInput("a version's name is empty", hint="was a shell's variable empty? `ulora status` shows names")
        if self.leave is not None and self.leave == self.to:
            raise BadInput(f"{self.to} can't be both what to leave and where to go")
        if self.leave is not None and self.expected is not None:
            raise BadInput("what to leave and the expected generation are two ways to say the same: give one")

    def is_met(self, head: Record) -> bool:
        """Whether a channel is already where the caller wants it."""
        if self.leave is not None:
            return self.leave not in head.live()
        return self.to is not None and head.live() == (self.to,)

    def names_nothing(self) -> bool:
        """Whether it says neither what to leave nor where to go."""
        return self.leave is None and self.expected is None and self.to is None

    def is_bare(self) -> bool:
        """Whether it could be the same wish as a rollback that has only just happened."""
        return self.names_nothing() and not self.again

    def ends_trial(self, head: Record) -> bool:
        """Whether it is about the canary only."""
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
        record: the record that was written; the newest one when nothing was to be done.
        left: the version that is not served any more, or the empty string.
        changed: whether the log moved by this call.
    """

    record: Record
    left: str
    changed: bool


def channel_names(store: ObjectStore, model: str) -> list[str]:
    """What the channels of a model are called, scratch ones too, and whatever else has objects where logs belong.

    Some servers go on listing a folder whose objects were deleted.
    """
    names = store.folders(layout.channels(model))
    return sorted(name for name in names if is_channel_name(name) or store.first(layout.channel(model, name)))


class Channel:
    """The log of one channel of one model."""

    def __init__(self, store: ObjectStore, model: str, name: str) -> None:
        self._store = store
        self.model = model
        self.name = check_channel(name)

    # --- reading -----------------------------------------------------------------------------------------------------

    def head(self) -> Record | None:
        """The newest record, None while the log is empty. Two round trips: LIST, GET."""
        return self.look()[0]

    def look(self) -> tuple[Record | None, float]:
        """The newest record and its age in seconds by the server's clock."""
        key = self._store.first(layout.channel(self.model, self.name))
        return self._read(_generation(key)) if key else (None, 0.0)

    def next(self, generation: int) -> Record | None:
        """The record after a generation, None while there is none. One round trip."""
        try:
            return self.read(generation + 1)
        except ObjectNotFound:
            return None

    def read(self, generation: int) -> Record:
        """One record.

        Raises:
            ObjectNotFound: there is no such generation.
            BadManifest, BrokenChain: it is not what its key says.
        """
        return self._read(generation)[0]

    def history(self, limit: int | None = None) -> list[Record]:
        """The records, newest first, each checked against the one after it.

        Raises:
            BrokenChain: a gap, or a record that does not hash to what its successor says.
        """
        keys = (info.key for info in self._store.list(layout.channel(self.model, self.name)))
        records: list[Record] = []
        for record in self._read_all(islice(keys, limit)):
            if records:
                check_link(record, records[-1])
            records.append(record)
        if records and limit is None and (records[-1].generation, records[-1].previous) != (1, None):
            raise BrokenChain(f"the log of {self.name} begins at generation {records[-1].generation}, not at 1")
        return records

    # --- writing -----------------------------------------------------------------------------------------------------

    def commit(self, record: Record) -> None:
        """Append a record made from the head: one conditional write.

        Raises:
            ChannelMoved: another writer was first. Nothing changed.
            OutcomeUnknown: the store did not say in time.
        """
        try:
            self._store.create(layout.record(self.model, self.name, record.generation), record.to_bytes())
        except KeyExists as error:
            raise self._moved(record.generation) from error

    def plan_rollback(self, author: Author, options: RollbackOptions) -> Rollback:
        """What a rollback would write now; `changed` is False when the wish is met already. Two round trips.

        Raises:
            NothingToRollBackTo, NotNow, VersionNotFound: see `rollback`.
        """
        head, age = self.look()
        options = self.resolve(options, head)
        if head and options.is_met(head):
            check_met(head, options)
            return Rollback(head, options.leave or "", changed=False)
        if head and options.is_bare():
            refuse_twice(head, age)
        position = ChannelPosition(self.model, self.name, head)
        if head and head.canary and options.ends_trial(head):
            return Rollback(aborted(position, author), head.canary.version, changed=True)
        left = head.stable.version if head and head.stable else ""
        return Rollback(rolled_back(position, author, options.to), left, changed=True)

    def rollback(self, author: Author, options: RollbackOptions) -> Rollback:
        """Go back: end a running trial, else make the top of the stack stable. Three round trips: LIST, GET, PUT.

        A lost race is looked at again: if the winner left the same version, this was the same rollback.

        Raises:
            NothingToRollBackTo: the stack is empty, or `options.to` is not on it. Nothing changed.
            NotNow: a bare rollback less than a minute after another. Nothing changed.
            ChannelMoved: somebody promoted meanwhile, and the wish does not say what to leave. Nothing changed.
            VersionNotFound: `options.leave` was never served here. Nothing changed.
            OutcomeUnknown: the store did not say in time whether the log moved.
        """
        for _ in range(RACES):
            plan = self.plan_rollback(author, options)
            if not plan.changed:
                return plan
            try:
                self.commit(plan.record)
            except ChannelMoved:
                if options.names_nothing() and self.read(plan.record.generation).action not in BACK:
                    raise  # somebody promoted: whether to leave that too, only the caller can say
                options = options if options.to else replace(options, leave=plan.left, expected=None)
                continue
            return plan
        raise NotNow(f"{self.name} moved {RACES} times while it was rolled back", hint="look with `ulora history`")

    # --- parts -------------------------------------------------------------------------------------------------------

    def _read(self, generation: int) -> tuple[Record, float]:
        key = layout.record(self.model, self.name, generation)
        stored = self._store.get(key, Record.LIMIT)
        record = Record.parse(stored.body, key)
        if (record.model, record.channel, record.generation) != (self.model, self.name, generation):
            raise BrokenChain(
                f"{key} holds the record of {record.model} {record.channel}, generation {record.generation}"
            )
        return record, stored.age

    def _read_all(self, keys: Iterator[str]) -> Iterator[Record]:
        while batch := list(islice(keys, _BATCH)):
            yield from in_parallel(lambda key: self.read(_generation(key)), batch)

    def resolve(self, options: RollbackOptions, head: Record | None) -> RollbackOptions:
        """Turn `expected` into the version that it means: what to leave.

        Raises:
            NotFound: the log is shorter.
        """
        if options.expected is None or head is None:
            return options
        if not 1 <= options.expected <= head.generation:
            raise NotFound(
                f"{self.name} has no generation {options.expected}, its newest is {head.generation}; nothing changed",
                hint=f"look with `ulora history --channel {self.name}`",
            )
        seen = head if head.generation == options.expected else self.read(options.expected)
        served = seen.live()
        return replace(options, expected=None, leave=served[-1] if served else None)

    def _moved(self, generation: int) -> ChannelMoved:
        winner = self.read(generation)
        to = winner.stable.version if winner.stable else "nothing"
        return ChannelMoved(
            f"{winner.who} moved {self.model} {self.name} first: {winner.action} to {to}, generation {generation}, "
            f"{winner.when}; nothing changed",
            hint=f"look with `ulora history --channel {self.name}`, then decide again",
        )


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
        )


def check_met(head: Record, options: RollbackOptions) -> None:
    """Check that a wish that is met is not a mistake.

    Raises:
        VersionNotFound: what to leave was never served here.
        ChannelMoved: it was left, but for another version than the wish names.
    """
    known = {*head.withdrawn, *head.live(), *(pointer.version for pointer in head.stack)}
    if options.leave is not None and options.leave not in known:
        serves = " and ".join(head.live()) or "nothing"
        raise VersionNotFound(
            f"{options.leave} is not what {head.channel} serves, nor was it lately; nothing changed",
            hint=f"it serves {serves}",
        )
    if options.to is not None and head.live() != (options.to,):
        raise ChannelMoved(
            f"{options.leave} was left by {head.who} ({head.action}, {head.when}), but {head.channel} does not serve "
            f"{options.to}; nothing changed",
            hint=f"`ulora rollback --channel {head.channel} --to {options.to}` goes there from where it is",
        )


def refuse_twice(head: Record, age: float) -> None:
    """Check that a bare rollback is not the same wish as one that has only just happened.

    Raises:
        NotNow: it may be.
    """
    if head.action in BACK and age < JUST_NOW:
        serves = head.stable.version if head.stable else "nothing"
        step = f"--from {serves}, or --again" if head.stable else "--again"
        raise NotNow(
            f"{head.who} rolled {head.channel} back {max(age, 0):.0f} s ago, it serves {serves} now; nothing changed",
            hint=f"to go back one more: {step}",
        )


def _generation(key: str) -> int:
    try:
        return layout.generation(key)
    except ValueError as error:
        raise BrokenChain(f"{error}: something else was written into the log") from error

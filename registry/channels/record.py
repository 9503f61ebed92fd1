"""A record: one change of a channel, and the channel's whole state after it. The rules of every change; no I/O.

A record is immutable. `previous` links it to the record before, so that a rewritten history is detected; `nonce` makes
its bytes unique, so that a writer can tell its own record from one with the same meaning by another writer.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from registry.channels.record_size import ROLLBACK_NAMES, ROLLBACK_ROOM, RecordFitter
from registry.channels.trial import StartTrial, Trial, check_share
from registry.errors import BadInput, BadManifest, NotFound, NothingToRollBackTo, NotNow, first_line
from registry.formats import canonical
from registry.formats.document import Document, DocumentPart, Sha256
from registry.machine import clock
from registry.names import is_version_name
from registry.versions.pointer import Pointer

WRITER = 1
"""The writer version of this release. It reads a record with a larger `min_writer`, but writes none after it."""
STACK_DEPTH = 10
UNREADABLE = (
    "no replica passes a record that it can't read, so what is written after it would not be followed; bring its bytes "
    "back or remove it (docs/runbook.md, “Junk in the log”), then run this again"
)
"""What to do about a record that can't be read."""
MAX_WITHDRAWN = 10_000
_MAX_REASON = 4096
_MAX_WHO = 256

Action = Literal["promote", "canary", "advance", "abort", "rollback"]
_FORWARD: tuple[Action, ...] = ("promote", "canary", "advance")
"""The actions that leave room for a rollback in their record."""
_OF_ONE_CHANGE = {"verdict", "canary", "trial", "decision"}
"""The fields that no record takes over from the one before it, unless its rule says so."""


class Canary(Pointer):
    """The version on trial; `weight` is its share of the keys in percent, 0 in a shadow trial."""

    weight: float = Field(ge=0, le=100)


@dataclass(frozen=True)
class Author:
    """Who changes a channel and why."""

    who: str
    reason: str = ""
    who_verified: bool = False

    def __post_init__(self) -> None:
        """Raises: BadInput: `who` or `reason` is too long, or not valid text."""
        for name, text, limit in (("reason", self.reason, _MAX_REASON), ("who", self.who, _MAX_WHO)):
            if len(text) > limit or not canonical.is_text(text):
                raise BadInput(f"the {name} is longer than {limit} characters, or not valid text")


class Record(Document):
    """The state of a channel after one change.

    Attributes:
        min_writer: the lowest writer version that may add a record after this one.
        generation: 1 for the first record, then without gaps.
        action: what was done, one of `Action`; a newer release may write others, which this one can read.
        stable: the version that the channel serves; None only before the first one.
        canary: the version on trial.
        stack: the versions that rollbacks go to, the next one first.
        withdrawn: versions that were rolled back and not promoted since.
        verdict: digest of the gate's verdict that allowed the change, or was overridden.
        trial: the trial of the canary. Releases without trials copy it on: read `running_trial` and `baking` instead.
        decision: digest of the guard's decision that made this change; copied on by such releases too.
        when: UTC, ISO 8601, by the writer's clock.
        previous: sha256 of the bytes of the record before, None for the first.
    """

    LIMIT: ClassVar[int] = 1024 * 1024

    format: Literal[1]
    min_writer: int = Field(default=1, ge=1)
    model: str = Field(max_length=100)
    channel: str = Field(max_length=64)
    generation: int = Field(ge=1, lt=10**12)
    action: str = Field(pattern=r"^[a-z-]{1,40}$")
    stable: Pointer | None
    canary: Canary | None = None
    stack: tuple[Pointer, ...] = Field(default=(), max_length=100)
    withdrawn: tuple[str, ...] = Field(default=(), max_length=MAX_WITHDRAWN)
    verdict: Sha256 | None = None
    trial: Trial | None = None
    decision: Sha256 | None = None
    reason: str = Field(default="", max_length=_MAX_REASON)
    who: str = Field(max_length=_MAX_WHO)
    who_verified: bool = False
    when: str = Field(max_length=40)
    nonce: str = Field(min_length=16, max_length=64)
    previous: Sha256 | None = None

    _left_out: tuple[str, ...] = PrivateAttr(default=())

    @property
    def left_out(self) -> tuple[str, ...]:
        """What of the record before did not fit into this one, in words. Known only where it was made."""
        return self._left_out

    def live(self) -> tuple[str, ...]:
        """The versions that answer requests: stable, then the canary."""
        return tuple(pointer.version for pointer in (self.stable, self.canary) if pointer)

    @property
    def judged(self) -> str | None:
        """The version that the verdict is about, if it names one: others may be stable beside a trial, or have left."""
        pointer = self.canary or self.stable
        return pointer.version if pointer and self.verdict else None

    @property
    def running_trial(self) -> Trial | None:
        """The trial of the canary; None if no canary runs."""
        return self.trial if self.canary else None

    @property
    def baking(self) -> Trial | None:
        """The trial whose version this change made stable, which is watched on for a time; None for other changes."""
        return self.trial if self.action == "advance" and self.canary is None else None

    @property
    def trial_share(self) -> str:
        """How much of the traffic the running trial takes, for people; empty if no canary runs."""
        if self.canary is None:
            return ""
        return self.trial.share(self.canary.weight) if self.trial else f"{self.canary.weight:g}%"

    def rollback_targets(self) -> tuple[Pointer, ...]:
        """The versions that rollbacks go to, the next one first: the stack without withdrawn and live versions."""
        return _without(self.stack, (*self.withdrawn, *self.live()))


@dataclass(frozen=True)
class ChannelPosition:
    """A channel of a model, and its newest record; `head` is None while the log is empty."""

    model: str
    channel: str
    head: Record | None


def promoted(position: ChannelPosition, version: Pointer, author: Author, verdict: str | None) -> Record:
    """`version` becomes stable; the old stable goes on the stack, from which the new one is removed.

    Raises:
        NotNow: a canary runs.
    """
    head = position.head
    if head and head.canary:
        raise NotNow(
            f"{_trial_in_words(head, head.canary)}; nothing changed",
            hint=f"`ulora canary advance --to 100 --channel {head.channel}` makes it stable, "
            f"`ulora canary abort --channel {head.channel}` ends the trial",
        )
    return _next(position, author, action="promote", verdict=verdict, **_made_stable(head, version))


def trial_started(
    position: ChannelPosition, version: Pointer, author: Author, verdict: str | None, start: StartTrial
) -> Record:
    """`version` is tried beside stable, which does not change.

    Raises:
        NotNow: a canary runs already, or there is no stable version to try it beside.
        BadInput: it is the stable version.
    """
    head, channel = position.head, position.channel
    if head is None or head.stable is None:
        raise NotNow(
            f"{channel} serves no version that {version.version} could be tried beside; nothing changed",
            hint=f"`ulora promote {version.version} --channel {channel}` makes it stable",
        )
    if head.canary:
        raise NotNow(
            f"{_trial_in_words(head, head.canary)}; nothing changed",
            hint=f"`ulora canary abort --channel {channel}` ends that trial",
        )
    if head.stable.version == version.version:
        raise BadInput(f"{version.version} is stable in {channel}: a trial needs another version")
    return _next(
        position, author, action="canary", canary=Canary(**version.model_dump(), weight=start.weight),
        trial=start.trial(head.generation + 1), verdict=verdict, withdrawn=_not_withdrawn(head, version),
    )  # fmt: skip


def trial_advanced(position: ChannelPosition, author: Author, percent: float, decision: str | None = None) -> Record:
    """The canary gets a larger share of the keys; at 100 it becomes stable, as by a promotion, and its trial is kept.

    Raises:
        NotFound: no canary runs.
        NotNow: its trial is of a kind that only a newer release knows.
        BadInput: the share is not larger, or not 100 in a shadow trial.
    """
    head, canary = on_trial(position)
    kept = {"trial": head.trial, "verdict": head.verdict, "decision": decision}
    check_share(head.running_trial, canary.version, canary.weight, percent)
    if percent < 100:
        larger = canary.model_copy(update={"weight": float(percent)})
        return _next(position, author, action="advance", canary=larger, **kept)
    version = Pointer(**canary.model_dump(exclude={"weight"}))
    return _next(position, author, action="advance", **kept, **_made_stable(head, version))


def aborted(position: ChannelPosition, author: Author, decision: str | None = None) -> Record:
    """The canary is withdrawn; stable does not change.

    Raises:
        NotFound: no canary runs.
    """
    head, canary = on_trial(position)
    withdrawn = _withdraw(head, [canary.version])
    stack = _without(head.stack, withdrawn)
    return _next(position, author, action="abort", withdrawn=withdrawn, stack=stack, decision=decision)


def on_trial(position: ChannelPosition) -> tuple[Record, Canary]:
    """The newest record and its canary.

    Raises:
        NotFound: no canary runs.
    """
    head = position.head
    if head is None or head.canary is None:
        raise NotFound(f"no canary runs in {position.channel}", hint="`ulora status` shows what is served")
    return head, head.canary


def rolled_back(
    position: ChannelPosition, author: Author, to: str | None = None, decision: str | None = None
) -> Record:
    """Withdraw stable and the canary; the top of the stack becomes stable; with `to`, all above it is withdrawn too.

    Withdrawn and live versions on the stack are skipped.

    Raises:
        NothingToRollBackTo: the stack is empty, or `to` is not on it.
    """
    target = rollback_target(position, to)
    head = position.head
    assert head is not None  # noqa: S101  a target is on the stack of a record
    stack = head.rollback_targets()
    depth = stack.index(target)
    withdrawn = _withdraw(head, [*head.live(), *(pointer.version for pointer in stack[:depth])])
    stack = stack[depth + 1 :]
    return _next(
        position, author, action="rollback", stable=target, stack=stack, withdrawn=withdrawn, decision=decision
    )


def partly_rolled_back(position: ChannelPosition, composed: Pointer, author: Author) -> Record:
    """`composed`, which is stable with some components of an earlier version, becomes stable; stable is withdrawn.

    The stack stays, without `composed`.

    Raises:
        NothingToRollBackTo: there is no stable version.
        NotNow: a canary runs, or `composed` was withdrawn.
    """
    head, stable = only_stable(position)
    if composed.version in head.withdrawn:
        raise NotNow(
            f"the result would be {composed.version}, which was withdrawn from {position.channel}; nothing changed",
            hint=f"`ulora promote {composed.version} --channel {position.channel} --force --reason …` serves it again",
        )
    withdrawn, stack = _withdraw(head, [stable.version]), _without(head.stack, (composed.version,))
    return _next(position, author, action="rollback", stable=composed, stack=stack, withdrawn=withdrawn)


def only_stable(position: ChannelPosition) -> tuple[Record, Pointer]:
    """The newest record and its stable version, if no canary runs.

    Raises:
        NothingToRollBackTo: there is no stable version.
        NotNow: a canary runs.
    """
    head = position.head
    if head is None or head.stable is None:
        raise NothingToRollBackTo(
            f"{position.model} {position.channel} serves no version, so no component can be rolled back"
        )
    if head.canary:
        raise NotNow(
            f"{_trial_in_words(head, head.canary)}; nothing changed",
            hint=f"`ulora canary abort --channel {head.channel}` ends the trial; then run this again",
        )
    return head, head.stable


def rollback_target(position: ChannelPosition, to: str | None = None) -> Pointer:
    """The version that a rollback goes to: the first on the stack that is not withdrawn or live, or `to`.

    Raises:
        NothingToRollBackTo: the stack is empty, or `to` is not on it.
        BadManifest: it has no version's name.
    """
    if position.head is None:
        raise NothingToRollBackTo(
            f"{position.model} {position.channel} serves no version yet; nothing changed",
            hint=f"`ulora promote VERSION --channel {position.channel}` makes one stable",
        )
    stack = position.head.rollback_targets()
    if not stack:
        raise NothingToRollBackTo(
            f"{position.model} {position.channel} has no earlier version to roll back to; nothing changed",
            hint=f"`ulora promote VERSION --channel {position.channel} --force --reason …` makes any version stable",
        )
    found = next((pointer for pointer in stack if to in (None, pointer.version)), None)
    if found is None:
        names = ", ".join(pointer.version for pointer in stack)
        raise NothingToRollBackTo(
            f"{to} is not on the stack of {position.channel}; nothing changed", hint=f"on the stack: {names}"
        )
    if not is_version_name(found.version):
        others = [pointer.version for pointer in stack if is_version_name(pointer.version)]
        way_out = f"--to {others[0]}" if others else "`ulora promote VERSION --force --reason …`"
        raise BadManifest(
            f"{found.version!r}, which is on the stack of {position.channel}, is not a version's name; nothing changed",
            hint=f"{way_out} goes to a version; see `ulora history --channel {position.channel}` for who put it there",
        )
    return found


def _trial_in_words(head: Record, canary: Canary) -> str:
    return f"{canary.version} is on trial in {head.channel} ({head.trial_share})"


def _made_stable(head: Record | None, version: Pointer) -> dict[str, object]:
    """What changes when a version becomes stable: the old stable goes on the stack."""
    old = [head.stable] if head and head.stable else []
    stack = _without((*old, *(head.stack if head else ())), (version.version,))
    return {"stable": version, "stack": stack[:STACK_DEPTH], "withdrawn": _not_withdrawn(head, version)}


def _not_withdrawn(head: Record | None, version: Pointer) -> tuple[str, ...]:
    return tuple(name for name in (head.withdrawn if head else ()) if name != version.version)


def _withdraw(head: Record, names: list[str]) -> tuple[str, ...]:
    return (*(name for name in head.withdrawn if name not in names), *dict.fromkeys(names))


def _without(stack: tuple[Pointer, ...], names: tuple[str, ...]) -> tuple[Pointer, ...]:
    return tuple(pointer for pointer in stack if pointer.version not in names)


def _next(position: ChannelPosition, author: Author, *, action: Action, **changes: object) -> Record:
    """The record after the head; unknown fields are copied, as far as they fit.

    Raises:
        NotNow: only a newer release may write here.
        BadInput: `who` or `reason` is too long, or not valid text.
    """
    head = position.head
    if head and head.min_writer > WRITER:
        raise NotNow(
            f"the log of {position.channel} needs writer version {head.min_writer}, this release has {WRITER}",
            hint="upgrade ulora-registry",
        )
    kept = head.model_dump(mode="json", exclude=_OF_ONE_CHANGE, exclude_unset=True) if head else {"stable": None}
    fields = {
        **kept,
        "format": Record.FORMAT,
        "min_writer": head.min_writer if head else 1,
        "model": position.model,
        "channel": position.channel,
        "generation": head.generation + 1 if head else 1,
        "action": action,
        "reason": author.reason,
        "who": author.who,
        "who_verified": author.who_verified,
        "when": clock.timestamp(),
        "nonce": secrets.token_hex(16),
        "previous": head.sha256 if head else None,
        **{name: _plain(value) for name, value in changes.items() if value is not None},
    }
    room, names = (ROLLBACK_ROOM, ROLLBACK_NAMES) if action in _FORWARD else (0, 0)
    left_out = _FITTER.fit(fields, Record.LIMIT - room, MAX_WITHDRAWN - names)
    try:
        record = Record.parse(canonical.encode(fields), f"the new record of {position.channel}")
    except BadManifest as error:
        raise BadInput(first_line(error)) from error
    record._left_out = left_out
    return record


def _plain(value: object) -> Any:
    """A field's value as JSON."""
    if isinstance(value, DocumentPart):
        return value.model_dump(mode="json", exclude_unset=True)
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


_FITTER = RecordFitter(fields=frozenset(Record.model_fields), version_fields=frozenset(Canary.model_fields))

"""A partial rollback: the live version with some components of an earlier version becomes stable. Needs S3 only.

No file is uploaded: both versions' files are in the store, so the composed version is a manifest and a name. The name
follows from the content, so the same partial rollback by two people gives the same version, and one record of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from registry.channels.channel import (
    BACKWARD_ACTIONS,
    MAX_RACES,
    Channel,
    Rollback,
    RollbackOptions,
    check_reached,
    refuse_repeat,
)
from registry.channels.record import Author, ChannelPosition, Record, only_stable, partly_rolled_back, rollback_target
from registry.errors import BadInput, ChannelMoved, NothingToRollBackTo, NotNow
from registry.names import VersionName
from registry.parallel import in_parallel
from registry.store.blobs import Blobs
from registry.versions.bindings import Bindings
from registry.versions.compose import ComponentFiles, check_name, compose, has_all, taken_from
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer

_MAX_PARENTS = 32
"""How many composed versions, each made from the one before, are followed back."""
Check = Callable[[Manifest], None]
"""Raises an error if a version may not be served."""


@dataclass(frozen=True)
class PartialRollbackPlan:
    """What a partial rollback would do; nothing, if `composed` is None.

    Attributes:
        head: the record that it starts from.
        left: the version that is not served any more, or the empty string.
        note: what it does, for people.
    """

    head: Record
    left: str
    note: str
    composed: Manifest | None = None


@dataclass(frozen=True)
class PartialRollback:
    """Rolls back components of one channel.

    Attributes:
        only: the components' names, e.g. `adapters/tomato`.
        check_servable: called with a composed version before its name is bound; checks its files and its trust.
    """

    channel: Channel
    bindings: Bindings
    blobs: Blobs
    only: Sequence[str]
    check_servable: Check

    def __post_init__(self) -> None:
        """Raises: BadInput: no component is named, or one can't be rolled back alone."""
        if not self.only:
            raise BadInput("no component is named")
        for name in self.only:
            check_name(name)

    def plan(self, options: RollbackOptions) -> PartialRollbackPlan:
        """What it would do now.

        Raises:
            BadInput: a component is not in the earlier version, or does not fit the live one.
            NothingToRollBackTo: there is no earlier version, `options.to` is not on the stack, or it has the same
                components.
            NotNow: a canary runs, or a rollback without arguments less than a minute after another.
            ChannelMoved: other components were rolled back meanwhile.
            MissingBlob: a file of the composed version is not in the store.
            CorruptBlob: a file of the composed version is damaged.
            NotTrusted: only trusted versions may be served, and the composed one is not.
        """
        head, age = self.channel.head_and_age()
        if not self.channel.is_newest(head):  # a listing may be out of date
            head, age = self.channel.head_and_age()
        options = self.channel.resolve(options, head)
        position = self._position(head)
        head, stable = only_stable(position)
        if options.leave is not None and options.leave not in head.live():
            return self._left_before(position, options)
        if options.is_bare() and not head.rollback_targets():
            refuse_repeat(head, age)
        live, replacements = self._open(stable, rollback_target(position, options.to))
        if has_all(live, replacements):
            self._check_rolled_back(live, replacements)
            return PartialRollbackPlan(head, "", _already(live, replacements))
        if options.is_bare():
            refuse_repeat(head, age)
        composition = compose(live, replacements)
        return PartialRollbackPlan(
            head, live.version, composition.sentence, self._servable(composition.manifest(_now()))
        )

    def preview(self, plan: PartialRollbackPlan, author: Author) -> Rollback:
        """The rollback that a plan would make."""
        if plan.composed is None:
            return Rollback(plan.head, plan.left, changed=False)
        record = partly_rolled_back(self._position(plan.head), _pointer(plan.composed), author)
        return Rollback(record, plan.left, changed=True)

    def roll_back(self, author: Author, options: RollbackOptions) -> tuple[Rollback, str]:
        """Roll back; return what was done, and a note for people. If another writer is first, it is planned again.

        Raises:
            BadInput: a component is not in the earlier version, or does not fit the live one.
            NothingToRollBackTo: there is no earlier version, `options.to` is not on the stack, or it has the same
                components.
            NotNow: a canary runs, the composed version was withdrawn before, or a rollback without arguments less than
                a minute after another.
            ChannelMoved: another person promoted meanwhile, or rolled back other components.
            MissingBlob: a file of the composed version is not in the store.
            CorruptBlob: a file of the composed version is damaged.
            NotTrusted: only trusted versions may be served, and the composed one is not.
            OutcomeUnknown: the store did not answer in time. Running it again is safe.
        """
        for _ in range(MAX_RACES):
            plan = self.plan(options)
            would = self.preview(plan, author)
            if plan.composed is None:
                return would, plan.note
            record = partly_rolled_back(self._position(plan.head), self._bind(plan.composed), author)
            try:
                self.channel.commit(record)
            except ChannelMoved:
                if options.leave is None and self.channel.read(record.generation).action not in BACKWARD_ACTIONS:
                    raise  # another person promoted: only the caller can decide about that version's components
                options = replace(options, leave=plan.left, expected=None)
                continue
            return Rollback(record, plan.left, changed=True), plan.note
        raise NotNow(f"{self.channel.name} moved {MAX_RACES} times during the rollback", hint="see `ulora history`")

    # --- parts -------------------------------------------------------------------------------------------------------

    def _position(self, head: Record | None) -> ChannelPosition:
        return ChannelPosition(self.channel.model, self.channel.name, head)

    def _open(self, stable: Pointer, target: Pointer) -> tuple[Manifest, list[ComponentFiles]]:
        live, prior = in_parallel(self.bindings.manifest, [stable, target])
        return live, [ComponentFiles.of(prior, name) for name in dict.fromkeys(self.only)]

    def _check_rolled_back(self, live: Manifest, replacements: Sequence[ComponentFiles]) -> None:
        """Check that the live version has the components of the earlier one because of a partial rollback.

        Raises:
            NothingToRollBackTo: they were the same from the beginning.
        """
        before = live
        for _ in range(_MAX_PARENTS):
            if any(taken_from(before, replacement.name) for replacement in replacements):
                return
            if not before.is_composed or before.parent is None:
                break
            before = self.bindings.manifest(self.bindings.get(VersionName.parse(before.parent.version)).pointer)
        names, source = ", ".join(replacement.name for replacement in replacements), replacements[0].source
        raise NothingToRollBackTo(
            f"{names} of {live.version} is the same in {source}: rolling back changes nothing",
            hint="--to VERSION takes it from another version on the stack; without --only everything is rolled back",
        )

    def _servable(self, composed: Manifest) -> Manifest:
        """The composed version, or the equal one that is bound already, after checking that it may be served."""
        binding = self.bindings.find(composed.name)
        if binding:
            self.bindings.check_same(binding, composed.content_sha256)
            composed = self.bindings.manifest(binding.pointer)
        self.check_servable(composed)
        return composed

    def _bind(self, composed: Manifest) -> Pointer:
        """Bind the composed version's name, unless another process did so meanwhile."""
        if self.bindings.bind(composed, self.blobs.put(composed.to_bytes())):
            return _pointer(composed)
        binding = self.bindings.get(composed.name)
        if binding.manifest_sha256 != composed.sha256:
            self.check_servable(self.bindings.manifest(binding.pointer))
        return binding.pointer

    def _left_before(self, position: ChannelPosition, options: RollbackOptions) -> PartialRollbackPlan:
        """The plan if the version to leave is not served any more: nothing to do, or an error.

        If the live version is composed, it may still have the unwanted components.
        """
        head, stable = only_stable(position)
        check_reached(head, replace(options, to=None))
        if head.rollback_targets() and self.bindings.manifest(stable).is_composed:
            live, replacements = self._open(stable, rollback_target(position, options.to))
            if not has_all(live, replacements):
                raise ChannelMoved(
                    f"{live.version} is served instead of {options.leave} ({head.action} by {head.who}, {head.when}), "
                    f"but its {', '.join(self.only)} is not that of {replacements[0].source}; nothing changed",
                    hint=f"`--from {live.version}` rolls that version back",
                )
        return PartialRollbackPlan(head, options.leave or "", f"{options.leave} is not served any more")


def _pointer(manifest: Manifest) -> Pointer:
    return Pointer(version=manifest.version, manifest_sha256=manifest.sha256)


def _already(live: Manifest, replacements: Sequence[ComponentFiles]) -> str:
    names = ", ".join(f"{replacement.name} of {replacement.source}" for replacement in replacements)
    return f"{live.version} has {names} already"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

"""A rollback of a part: what is live, but for some components of an earlier version, becomes stable. S3 only.

No file travels: both versions' files are in the store, so the new version is a manifest and a name. The name follows
from the content. Whoever asks for the same gets the same version, and one record of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from registry.channels.channel import BACK, RACES, Channel, Rollback, RollbackOptions, check_met, refuse_twice
from registry.channels.record import Author, ChannelPosition, Record, only_stable, partly_rolled_back, rollback_target
from registry.errors import BadInput, ChannelMoved, NothingToRollBackTo, NotNow
from registry.machine import clock
from registry.names import VersionName
from registry.parallel import in_parallel
from registry.store.blobs import Blobs
from registry.versions.bindings import Versions
from registry.versions.compose import Piece, check_name, compose, has_all, taken_from
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer

_MOST = 32
"""Compositions of compositions that are looked through."""
Check = Callable[[Manifest], None]
"""Raises what speaks against serving a version."""


@dataclass(frozen=True)
class PartialRollbackPlan:
    """What a partial rollback would do: nothing, where `composed` is None.

    Attributes:
        head: the record that it starts from.
        left: the version that is not served any more, or the empty string.
        note: in words.
    """

    head: Record
    left: str
    note: str
    composed: Manifest | None = None


@dataclass(frozen=True)
class PartialRollback:
    """Rolls components of one channel back.

    Attributes:
        only: their names, e.g. `adapters/tomato`.
        check_servable: asked of a composed version before it gets a name: whether it is whole, and trusted.
    """

    channel: Channel
    versions: Versions
    blobs: Blobs
    only: Sequence[str]
    check_servable: Check

    def __post_init__(self) -> None:
        """Raises: BadInput: they can't be rolled back alone."""
        if not self.only:
            raise BadInput("no component is named")
        for name in self.only:
            check_name(name)

    def plan(self, options: RollbackOptions) -> PartialRollbackPlan:
        """What it would do now.

        Raises:
            As `roll_back`, but for what only a write can meet.
        """
        head, age = self.channel.look()
        options = self.channel.resolve(options, head)
        position = self._place(head)
        head, stable = only_stable(position)
        if options.leave is not None and options.leave not in head.live():
            return self._left_before(position, options)
        if options.is_bare() and not head.rollback_targets():
            refuse_twice(head, age)
        live, pieces = self._open(stable, rollback_target(position, options.to))
        if has_all(live, pieces):
            self._check_exchanged(live, pieces)
            return PartialRollbackPlan(head, "", _already(live, pieces))
        if options.is_bare():
            refuse_twice(head, age)
        composition = compose(live, pieces)
        return PartialRollbackPlan(
            head, live.version, composition.sentence, self._servable(composition.manifest(clock.timestamp()))
        )

    def preview(self, plan: PartialRollbackPlan, author: Author) -> Rollback:
        """What a plan would write."""
        if plan.composed is None:
            return Rollback(plan.head, plan.left, changed=False)
        record = partly_rolled_back(self._place(plan.head), _pointer(plan.composed), author)
        return Rollback(record, plan.left, changed=True)

    def roll_back(self, author: Author, options: RollbackOptions) -> tuple[Rollback, str]:
        """Do it; what was done, and in words what of. A lost race is looked at again.

        Raises:
            BadInput: a component is not in the earlier version, or does not fit the live one.
            NothingToRollBackTo: there is no earlier version, `options.to` is not on the stack, or the components are
                the same there.
            NotNow: a canary runs, the composed version was withdrawn before, or a bare rollback less than a minute
                after another.
            ChannelMoved: somebody promoted meanwhile, or rolled other components back.
            MissingBlob, CorruptBlob: a file of the composed version is not in the store.
            NotTrusted: only trusted versions may be served, and the composed one is not.
            OutcomeUnknown: run it again, it is safe.
        """
        for _ in range(RACES):
            plan = self.plan(options)
            would = self.preview(plan, author)
            if plan.composed is None:
                return would, plan.note
            record = partly_rolled_back(self._place(plan.head), self._bind(plan.composed), author)
            try:
                self.channel.commit(record)
            except ChannelMoved:
                if options.leave is None and self.channel.read(record.generation).action not in BACK:
                    raise  # somebody promoted: whether to take that version's components too, only the caller can say
                options = replace(options, leave=plan.left, expected=None)
                continue
            return Rollback(record, plan.left, changed=True), plan.note
        raise NotNow(f"{self.channel.name} moved {RACES} times meanwhile", hint="look with `ulora history`")

    # --- parts -------------------------------------------------------------------------------------------------------

    def _place(self, head: Record | None) -> ChannelPosition:
        return ChannelPosition(self.channel.model, self.channel.name, head)

    def _open(self, stable: Pointer, target: Pointer) -> tuple[Manifest, list[Piece]]:
        live, prior = in_parallel(self.versions.manifest, [stable, target])
        return live, [Piece.of(prior, name) for name in dict.fromkeys(self.only)]

    def _check_exchanged(self, live: Manifest, pieces: Sequence[Piece]) -> None:
        """Check that a version has components of an earlier one because somebody rolled them back.

        Raises:
            NothingToRollBackTo: nobody did.
        """
        before = live
        for _ in range(_MOST):
            if any(taken_from(before, piece.name) for piece in pieces):
                return
            if not before.is_composed or before.parent is None:
                break
            before = self.versions.manifest(self.versions.get(VersionName.parse(before.parent.version)).pointer)
        names, source = ", ".join(piece.name for piece in pieces), pieces[0].source
        raise NothingToRollBackTo(
            f"{names} of {live.version} is the same in {source}: rolling it back changes nothing",
            hint="--to VERSION takes it from another one on the stack; without --only all of it goes back",
        )

    def _servable(self, composed: Manifest) -> Manifest:
        """The composed version, as somebody may have bound it already, if it may be served."""
        binding = self.versions.find(composed.name)
        if binding:
            self.versions.check_same(binding, composed.content_sha256)
            composed = self.versions.manifest(binding.pointer)
        self.check_servable(composed)
        return composed

    def _bind(self, composed: Manifest) -> Pointer:
        """Give the composed version its name, unless somebody did so meanwhile."""
        if self.versions.bind(composed, self.blobs.put(composed.to_bytes())):
            return _pointer(composed)
        binding = self.versions.get(composed.name)
        if binding.manifest_sha256 != composed.sha256:
            self.check_servable(self.versions.manifest(binding.pointer))
        return binding.pointer

    def _left_before(self, position: ChannelPosition, options: RollbackOptions) -> PartialRollbackPlan:
        """Nothing is to be done about a version that is not served any more; unless what took its place was composed.

        It may have been composed of that very version, and then it may have the unwanted components still.
        """
        head, stable = only_stable(position)
        check_met(head, replace(options, to=None))
        if head.rollback_targets() and self.versions.manifest(stable).is_composed:
            live, pieces = self._open(stable, rollback_target(position, options.to))
            if not has_all(live, pieces):
                raise ChannelMoved(
                    f"{options.leave} was left by {head.who} ({head.action}, {head.when}) for {live.version}, whose "
                    f"{', '.join(self.only)} is not that of {pieces[0].source}; nothing changed",
                    hint=f"`--from {live.version}` goes on from there",
                )
        return PartialRollbackPlan(head, options.leave or "", f"{options.leave} is not served any more")


def _pointer(manifest: Manifest) -> Pointer:
    return Pointer(version=manifest.version, manifest_sha256=manifest.sha256)


def _already(live: Manifest, pieces: Sequence[Piece]) -> str:
    return f"{live.version} has {', '.join(f'{piece.name} of {piece.source}' for piece in pieces)} already"

"""Forget old versions, and take that back.

To forget is not to delete. A forgotten version keeps its name, manifest and evidence; its files are deleted by a later
prune (`registry.retention.prune`), unless something needs them (`registry.retention.references`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from registry.channels.record import Author
from registry.errors import BadInput, VersionForgotten
from registry.machine import clock
from registry.names import VersionName
from registry.parallel import in_parallel
from registry.progress import Say, say_nothing
from registry.retention.notes import Forgotten, Notes, forgotten_notes
from registry.retention.old_counts import delete_old_counts, old_counts
from registry.retention.old_operations import delete_old_operations, old_operations
from registry.retention.prune import GRACE, Prune, Pruned
from registry.retention.references import References, holds
from registry.store import layout
from registry.store.blobs import Blobs
from registry.store.gc_marks import unmark
from registry.store.objects import ObjectStore
from registry.versions.bindings import Bindings
from registry.versions.manifest import Manifest

KEEP = 5
OLDER_THAN = timedelta(days=30)


@dataclass(frozen=True)
class Kept:
    """A version that is not forgotten, and why."""

    version: str
    why: tuple[str, ...]


@dataclass(frozen=True)
class Collected:
    """What a garbage collection did, or would do.

    Attributes:
        forgotten: versions of this model that were forgotten now, oldest first; `before` those that were already.
        remembered: versions that were forgotten and are needed after all: that was taken back.
        pruned: what was done with the blobs of all models.
        old_counts: how many observations of trials that ended long ago were deleted; None where this identity may not.
        old_operations: how many notes of commands that ended long ago were deleted; None in the same way.
    """

    model: str
    kept: tuple[Kept, ...]
    forgotten: tuple[str, ...]
    before: tuple[str, ...]
    remembered: tuple[str, ...]
    pruned: Pruned
    old_counts: int | None = 0
    old_operations: int | None = 0


@dataclass(frozen=True)
class RetentionRule:
    """What to forget: versions that are neither among the newest `keep` nor younger than `older_than`."""

    keep: int = KEEP
    older_than: timedelta = OLDER_THAN

    def __post_init__(self) -> None:
        """Raises: BadInput: it would forget everything."""
        if self.keep < 1:
            raise BadInput("at least the newest version is kept", hint="--keep 1 or more")


class _Sorted(NamedTuple):
    """The versions of a model, as `Collected` has them."""

    kept: tuple[Kept, ...]
    forgotten: tuple[str, ...]
    before: tuple[str, ...]
    remembered: tuple[str, ...]


@dataclass(frozen=True)
class GarbageCollection:
    """Forgets the versions of one model, and takes that back."""

    store: ObjectStore
    blobs: Blobs
    model: str
    author: Author
    say: Say = say_nothing

    def collect(self, rule: RetentionRule, grace: timedelta = GRACE) -> Collected:
        """Forget what the rule says, then prune the store.

        Raises:
            NotNow: another garbage collection runs, or a newer release wrote here.
            IntegrityError: something can't be read: no file was deleted.
        """
        done = self._forget(self._sort(rule))
        references = References(self.store, self.blobs, say=self.say)
        pruned = Prune(self.store, references, self.author.who, grace, self.say).run()
        counts = delete_old_counts(self.store, self.model)
        return Collected(self.model, *done, pruned, counts, delete_old_operations(self.store, self.model))

    def plan(self, rule: RetentionRule, grace: timedelta = GRACE) -> Collected:
        """What `collect` would do. Nothing is written.

        Raises:
            NotNow, IntegrityError: see `collect`.
        """
        would = self._sort(rule)
        references = References(self.store, self.blobs, {self.model: frozenset(would.forgotten)}, self.say)
        plan = Prune(self.store, references, self.author.who, grace, self.say).plan()
        counts, operations = (len(old(self.store, self.model)) for old in (old_counts, old_operations))
        return Collected(self.model, *would, plan.outcome(plan.due, grace), counts, operations)

    def remember(self, version: str) -> bool:
        """Take back that a version was forgotten, if its files are still there. False if it was not forgotten.

        Raises:
            VersionNotFound: no version has this name.
            VersionForgotten: it is too late, some of its files are gone. Nothing changed.
            NotNow: a garbage collection is deleting. Nothing changed.
        """
        manifest = self._forgotten(version)
        if manifest is None:
            return False
        # First remove the marks: then no sweep deletes within a grace period what the check below finds whole.
        unmark(self.store, manifest.files, self.author.who)
        self._check_whole(manifest)
        self._notes.take_back(version)
        return True

    def may_remember(self, version: str) -> bool:
        """Whether `remember` would do something now. Nothing is written.

        Raises:
            VersionNotFound, VersionForgotten: see `remember`.
        """
        manifest = self._forgotten(version)
        if manifest is not None:
            self._check_whole(manifest)
        return manifest is not None

    # --- steps -------------------------------------------------------------------------------------------------------

    def _forgotten(self, version: str) -> Manifest | None:
        """The manifest of a forgotten version, None for one that is not forgotten."""
        manifest = self._versions.manifest(self._versions.get(VersionName.parse(version)).pointer)
        return manifest if self._notes.find(version) else None

    def _check_whole(self, manifest: Manifest) -> None:
        absent = {bad.sha256 for bad in self.blobs.absent(manifest.files)}
        if absent:
            raise VersionForgotten(
                f"{manifest.version} was forgotten, and files of it are gone: {len(absent)} of {len(manifest.files)}",
                hint=f"`ulora create {manifest.version} --from …` with the same files brings it back",
            )

    @property
    def _versions(self) -> Bindings:
        return Bindings(self.store, self.blobs, self.model)

    @property
    def _notes(self) -> Notes[Forgotten]:
        return forgotten_notes(self.store, self.model)

    def _sort(self, rule: RetentionRule) -> _Sorted:
        """What to keep and why, what to forget, what is forgotten already, and what of that to remember; by name."""
        noted = set(self._notes.versions())
        names = [str(name) for name in self._versions.existing_names()]
        held: dict[str, list[str]] = {name: [] for name in names}
        for hold in holds(self.store, self.model):
            held.get(hold.version, []).append(hold.why)
        known = [name for name in names if name not in noted]
        spared = self._spared(rule, known)
        whys = {name: [*held[name], *spared.get(name, ())] for name in names}
        return _Sorted(
            kept=tuple(Kept(name, tuple(dict.fromkeys(why))) for name, why in whys.items() if why),
            forgotten=tuple(name for name in known if not whys[name]),
            before=tuple(name for name in names if name in noted and not whys[name]),
            remembered=tuple(name for name in names if name in noted and held[name]),
        )

    def _spared(self, rule: RetentionRule, known: list[str]) -> dict[str, list[str]]:
        """Why the rule keeps some versions, by name: they are among the newest, or young."""
        now = self.store.now()
        listed = self.store.list(layout.versions(self.model))
        ages = {layout.stem(info.key): now - (info.modified or now) for info in listed}
        whys: dict[str, list[str]] = {name: [f"among the newest {rule.keep}"] for name in known[-rule.keep :]}
        for name in known:
            if ages.get(name, timedelta()) < rule.older_than:
                whys.setdefault(name, []).append(f"younger than {_words(rule.older_than)}")
        return whys

    def _forget(self, wanted: _Sorted) -> _Sorted:
        """Leave the notes; take back those of versions that are needed, or have become needed meanwhile.

        What is needed keeps its files whatever a note says; but a note must not tell people that they are gone.
        """
        in_parallel(self._leave_note, wanted.forgotten)
        needed = {hold.version for hold in holds(self.store, self.model)} | set(wanted.remembered)
        noted = (*wanted.forgotten, *wanted.before, *wanted.remembered)
        in_parallel(self._notes.take_back, [version for version in noted if version in needed])
        return _Sorted(
            kept=wanted.kept,
            forgotten=tuple(version for version in wanted.forgotten if version not in needed),
            before=tuple(version for version in wanted.before if version not in needed),
            remembered=wanted.remembered + tuple(version for version in wanted.before if version in needed),
        )

    def _leave_note(self, version: str) -> None:
        binding = self._versions.get(VersionName.parse(version))
        note = Forgotten(
            format=1, model=self.model, version=version, manifest_sha256=binding.manifest_sha256,
            who=self.author.who, when=clock.timestamp(), reason=self.author.reason,
        )  # fmt: skip
        self._notes.add(note)


def _words(age: timedelta) -> str:
    days, seconds = divmod(int(age.total_seconds()), 86_400)
    return f"{days}d" if not seconds else f"{days * 24 + seconds / 3600:.3g}h"

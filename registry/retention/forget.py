"""Retention: which versions are forgotten, and which blobs of the store anything refers to.

To forget is not to delete. A forgotten version keeps its name, manifest and evidence; its files go in a later prune
(`registry.store.gc`), unless something needs them: a version that is stable, on trial, on a stack, in a replica's
memory or behind a pinned rollback script keeps its files whatever a note says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from typing import NamedTuple

from registry.channels.channel import Channel, channel_names
from registry.channels.record import WRITER, Author
from registry.errors import BadInput, BadManifest, IntegrityError, NotNow, ObjectNotFound, VersionForgotten
from registry.names import CHANNELS, VersionName
from registry.retention.notes import Forgotten, Notes, forgotten_notes, now, pins
from registry.serving.fleet import Heartbeat
from registry.store import layout
from registry.store.blobs import Blobs, in_parallel
from registry.store.gc import GRACE, Prune, Pruned, unmark
from registry.store.objects import ObjectStore
from registry.versions.backbones import BackboneMirror
from registry.versions.bindings import Binding, Versions
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer

KEEP = 5
OLDER_THAN = timedelta(days=30)
SILENT_FOR = timedelta(hours=24)
"""After which a replica that says nothing holds its versions no longer: its process has ended without a goodbye."""
DRILLED_FOR = timedelta(days=30)
"""After which a scratch channel that did not move holds its versions no longer: a drill ends, a log never does."""
_JUNK = "something else was written into the store: look at it, and delete it if nobody needs it"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Hold:
    """A reason why a version's files must stay. `pointer` is None where only the name is known."""

    version: str
    why: str
    pointer: Pointer | None = None


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
        remembered: versions that were forgotten and are needed all the same: that was taken back.
        pruned: what became of the blobs of all models.
    """

    model: str
    kept: tuple[Kept, ...]
    forgotten: tuple[str, ...]
    before: tuple[str, ...]
    remembered: tuple[str, ...]
    pruned: Pruned


@dataclass(frozen=True)
class RetentionRule:
    """What to forget: versions that are neither among the newest `keep` nor younger than `older_than`."""

    keep: int = KEEP
    older_than: timedelta = OLDER_THAN

    def __post_init__(self) -> None:
        """Raises: BadInput: it would forget everything."""
        if self.keep < 1:
            raise BadInput("at least the newest version is kept", hint="--keep 1 or more")


@contextmanager
def _explained() -> Iterator[None]:
    """What can't be read keeps garbage collection from telling what is needed: say how to find it."""
    try:
        yield
    except IntegrityError as error:
        error.hint = error.hint or "`ulora verify --all` names what is damaged, and what does not belong there"
        raise


@_explained()
def holds(store: ObjectStore, model: str) -> list[Hold]:
    """Everything that needs a version of a model, from its channels, its replicas and its pins.

    Raises:
        BadManifest, BrokenChain: something can't be read, so nobody knows what it needs.
        NotNow: a newer release wrote here, which may know more that needs a version.
    """
    channels = in_parallel(lambda name: list(_of_channel(store, model, name)), channel_names(store, model))
    pinned = [
        Hold(pin.version, f"pinned by {pin.who}" + f" ({pin.reason})" * bool(pin.reason), pin.pointer)
        for pin in pins(store, model).all()
    ]
    return [*chain.from_iterable(channels), *_of_replicas(store, model), *pinned]


def dispensable(store: ObjectStore, model: str) -> set[str]:
    """The versions whose files may be gone: forgotten, and nothing needs them. The errors are those of `holds`."""
    forgotten = set(forgotten_notes(store, model).versions())
    return forgotten - {hold.version for hold in holds(store, model)} if forgotten else forgotten


@dataclass
class References:
    """The blobs that anything refers to, over all models of a store. What never changes is read once.

    Attributes:
        forget: versions, by model, that count as forgotten although nobody has said so yet.
    """

    store: ObjectStore
    blobs: Blobs
    forget: Mapping[str, frozenset[str]] = field(default_factory=dict)
    say: Say = lambda line: None
    _bindings: dict[str, Binding] = field(default_factory=dict)
    _files: dict[str, frozenset[str]] = field(default_factory=dict)
    _notes: dict[tuple[str, str], Forgotten] = field(default_factory=dict)

    @_explained()
    def __call__(self) -> frozenset[str]:
        """Their digests.

        Raises:
            IntegrityError: something can't be read, so nobody knows what it refers to.
            NotNow: a newer release wrote here.
        """
        models = list(self.store.folders(layout.MODELS_PREFIX))
        return frozenset().union(self._backbones(), *map(self._of_model, models))

    def _backbones(self) -> set[str]:
        found = BackboneMirror(self.store, self.blobs).all()
        if found.damaged:
            raise BadManifest(f"a backbone can't be read: {found.damaged[0]}", hint="delete that object, or repair it")
        return {mirrored.backbone.sha256 for mirrored in found}

    def _of_model(self, model: str) -> set[str]:
        versions = Versions(self.store, self.blobs, model)
        folder = layout.versions(model)
        keys = [info.key for info in self.store.list(folder)]
        new = [key for key in keys if key not in self._bindings]
        if new:
            self.say(f"reading {len(new)} versions of {model}")
        self._bindings.update(zip(new, in_parallel(lambda key: _binding(versions, folder, key), new), strict=True))
        bound = {self._bindings[key].version: self._bindings[key].pointer for key in keys}
        forgotten = self._forgotten(model) | self.forget.get(model, frozenset())
        held = holds(self.store, model)
        needed = {pointer for version, pointer in bound.items() if version not in forgotten}
        needed |= {hold.pointer or bound[hold.version] for hold in held if hold.pointer or hold.version in bound}
        unread = [pointer for pointer in needed if pointer.manifest_sha256 not in self._files]
        for pointer, manifest in zip(unread, in_parallel(versions.manifest, unread), strict=True):
            self._files[pointer.manifest_sha256] = frozenset(file.sha256 for file in manifest.files)
        manifests = {pointer.manifest_sha256 for pointer in [*bound.values(), *needed]}
        return manifests.union(*(self._files[pointer.manifest_sha256] for pointer in needed))

    def _forgotten(self, model: str) -> set[str]:
        """The versions that have a note now. A note never changes, so one that was read is not read again."""
        notes = forgotten_notes(self.store, model)
        listed = notes.versions()
        new = [version for version in listed if (model, version) not in self._notes]
        found = in_parallel(notes.find, new)
        self._notes |= {(model, note.version): note for note in found if note}
        return {version for version in listed if (model, version) in self._notes}


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
    signature: Author
    say: Say = lambda line: None

    def collect(self, rule: RetentionRule, grace: timedelta = GRACE) -> Collected:
        """Forget what the rule says, then prune the store.

        Raises:
            NotNow: another garbage collection runs, or a newer release wrote here.
            IntegrityError: something can't be read: no file was deleted.
        """
        done = self._forget(self._sort(rule))
        references = References(self.store, self.blobs, say=self.say)
        pruned = Prune(self.store, references, self.signature.who, grace, self.say).run()
        return Collected(self.model, *done, pruned)

    def plan(self, rule: RetentionRule, grace: timedelta = GRACE) -> Collected:
        """What `collect` would do. Nothing is written. The errors are those of `collect`."""
        would = self._sort(rule)
        references = References(self.store, self.blobs, {self.model: frozenset(would.forgotten)}, self.say)
        plan = Prune(self.store, references, self.signature.who, grace, self.say).plan()
        return Collected(self.model, *would, plan.outcome(plan.ripe, grace))

    def remember(self, version: str) -> bool:
        """Take back that a version was forgotten, if its files are still there. False if it was not.

        Raises:
            VersionNotFound: there is no such version.
            VersionForgotten: it is too late, some of its files are gone. Nothing changed.
            NotNow: a garbage collection is deleting. Nothing changed.
        """
        manifest = self._forgotten(version)
        if manifest is None:
            return False
        # First off the list of what is doomed: then no sweep deletes for a grace what we are about to find whole.
        unmark(self.store, manifest.files, self.signature.who)
        self._check_whole(manifest)
        self._notes.take_back(version)
        return True

    def may_remember(self, version: str) -> bool:
        """Whether `remember` would do something now. Nothing is written. The errors are those of `remember`."""
        manifest = self._forgotten(version)
        if manifest is not None:
            self._check_whole(manifest)
        return manifest is not None

    # --- parts -------------------------------------------------------------------------------------------------------

    def _forgotten(self, version: str) -> Manifest | None:
        """What a forgotten version is, None for one that is not forgotten."""
        manifest = self._versions.manifest(self._versions.get(VersionName.parse(version)).pointer)
        return manifest if self._notes.find(version) else None

    def _check_whole(self, manifest: Manifest) -> None:
        absent = {bad.sha256 for bad in self.blobs.absent(manifest.files)}
        if absent:
            raise VersionForgotten(
                f"{manifest.version} was forgotten, and {len(absent)} of its {len(manifest.files)} files are gone",
                hint=f"`ulora create {manifest.version} --from …` with the same files brings it back",
            )

    @property
    def _versions(self) -> Versions:
        return Versions(self.store, self.blobs, self.model)

    @property
    def _notes(self) -> Notes[Forgotten]:
        return forgotten_notes(self.store, self.model)

    def _sort(self, rule: RetentionRule) -> _Sorted:
        """What to keep and why, what to forget, what is forgotten already, and what of that to remember; by name."""
        moment = self.store.now()
        listed = self.store.list(layout.versions(self.model))
        ages = {_stem(info.key): moment - (info.modified or moment) for info in listed}
        noted = set(self._notes.versions())
        names = [str(name) for name in self._versions.names()]
        whys: dict[str, list[str]] = {name: [] for name in names}
        for hold in holds(self.store, self.model):
            whys.get(hold.version, []).append(hold.why)
        remembered = tuple(name for name in names if name in noted and whys[name])
        known = [name for name in names if name not in noted]
        for name in known[-rule.keep :]:
            whys[name].append(f"among the newest {rule.keep}")
        for name in known:
            if ages.get(name, timedelta()) < rule.older_than:
                whys[name].append(f"younger than {_words(rule.older_than)}")
        kept = tuple(Kept(name, tuple(dict.fromkeys(why))) for name, why in whys.items() if why)
        forget = tuple(name for name in known if not whys[name])
        return _Sorted(kept, forget, tuple(name for name in names if name in noted and not whys[name]), remembered)

    def _forget(self, wanted: _Sorted) -> _Sorted:
        """Leave the notes; take back those of versions that are needed, or that somebody has begun to need meanwhile.

        What is needed keeps its files whatever a note says; but people should not be told that they are gone.
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
            who=self.signature.who, when=now(), reason=self.signature.reason,
        )  # fmt: skip
        self._notes.add(note)


def _of_channel(store: ObjectStore, model: str, name: str) -> Iterator[Hold]:
    try:
        head, age = Channel(store, model, name).look()
    except BadInput as error:
        raise BadManifest(f"{layout.channel(model, name)} is no channel's log: {error}", hint=_JUNK) from error
    if head is None:
        return
    if head.min_writer > WRITER:
        raise NotNow(
            f"the log of {model} {name} asks for writer {head.min_writer}, this release is writer {WRITER}",
            hint="upgrade ulora-registry: it may refer to more than this release knows",
        )
    if name not in CHANNELS and age > DRILLED_FOR.total_seconds():
        return
    for why, pointer in ((f"stable in {name}", head.stable), (f"on trial in {name}", head.canary)):
        if pointer:
            yield Hold(pointer.version, why, _plain(pointer))
    yield from (Hold(pointer.version, f"on the stack of {name}", pointer) for pointer in head.stack)


def _of_replicas(store: ObjectStore, model: str) -> Iterator[Hold]:
    """What the replicas say they serve or have in memory. A heartbeat that went away meanwhile held nothing."""

    def read(key: str) -> list[Hold]:
        try:
            stored = store.get(key, Heartbeat.LIMIT)
        except ObjectNotFound:
            return []
        if stored.age > SILENT_FOR.total_seconds():
            return []
        try:
            said = Heartbeat.parse(stored.body, key)
        except BadManifest as error:
            error.hint = f"delete {key}: a replica whose it is writes it anew"
            raise
        names = {said.version, *said.resident} - {""}
        return [Hold(name, f"held by replica {said.id}") for name in sorted(names)]

    keys = [info.key for info in store.list(layout.all_replicas(model))]
    return chain.from_iterable(in_parallel(read, keys))


def _binding(versions: Versions, folder: str, key: str) -> Binding:
    try:
        binding = versions.find(VersionName.parse(_stem(key)))
    except BadInput as error:
        raise BadManifest(f"{key} binds no version: {error}", hint=_JUNK) from error
    if binding is None or key != f"{folder}{binding.version}.json":
        raise BadManifest(f"{key} binds no version", hint=_JUNK)
    return binding


def _stem(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")


def _plain(pointer: Pointer) -> Pointer:
    """A canary's pointer without its weight."""
    return Pointer(version=pointer.version, manifest_sha256=pointer.manifest_sha256)


def _words(age: timedelta) -> str:
    days, seconds = divmod(int(age.total_seconds()), 86_400)
    return f"{days}d" if not seconds else f"{days * 24 + seconds / 3600:.3g}h"

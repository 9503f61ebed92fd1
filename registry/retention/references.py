"""What needs the files of versions: holds of one model, and the blobs that anything in the store refers to.

A version that is stable, on trial, on a stack, in a replica's memory or pinned by a rollback script keeps its files,
whether or not it was forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain

from registry.channels.channel import Channel, channel_names
from registry.channels.record import WRITER
from registry.errors import BadInput, BadManifest, IntegrityError, NotAsListed, NotNow, ObjectNotFound, StoreDenied
from registry.formats.counts import counted
from registry.names import CHANNELS, VersionName
from registry.parallel import in_parallel
from registry.progress import Say, say_nothing
from registry.retention.notes import Forgotten, forgotten_notes, pins
from registry.serving.fleet import Heartbeat
from registry.store import layout
from registry.store.blobs import Blobs
from registry.store.objects import ObjectStore
from registry.versions.backbones import BackboneMirror
from registry.versions.bindings import Binding, Bindings
from registry.versions.pointer import Pointer

SILENT_AFTER = timedelta(hours=24)
"""A replica that has written no heartbeat for this long holds no versions: its process was killed."""
SCRATCH_CHANNEL_AGE = timedelta(days=30)
"""A scratch channel that did not move for this long holds no versions: the drill is over, though its log stays."""
_JUNK = "it was not written by ulora: look at it, and delete it if nobody needs it"


@dataclass(frozen=True)
class Hold:
    """A reason why a version's files must stay. `pointer` is None where only the name is known."""

    version: str
    why: str
    pointer: Pointer | None = None


@contextmanager
def _verify_hint() -> Iterator[None]:
    """Add to an integrity error, after which nobody knows what is needed, how to find what is damaged."""
    try:
        yield
    except IntegrityError as error:
        error.hint = error.hint or "`ulora verify --all` names what is damaged, and what does not belong there"
        raise


@_verify_hint()
def holds(store: ObjectStore, model: str) -> list[Hold]:
    """Everything that needs a version of a model, from its channels, its replicas and its pins.

    Raises:
        BadManifest, BrokenChain: something can't be read, so what it needs is unknown.
        NotNow: a newer release wrote here, which may need a version in a way this release does not know.
    """
    channels = in_parallel(lambda name: list(_of_channel(store, model, name)), channel_names(store, model))
    pinned = [
        Hold(pin.version, f"pinned by {pin.who}" + f" ({pin.reason})" * bool(pin.reason), pin.pointer)
        for pin in pins(store, model).all()
    ]
    return [*chain.from_iterable(channels), *_of_replicas(store, model), *pinned]


def deletable_versions(store: ObjectStore, model: str) -> set[str]:
    """The versions whose files may have been deleted: forgotten, and nothing needs them.

    Raises:
        BadManifest, BrokenChain, NotNow: see `holds`.
    """
    forgotten = set(forgotten_notes(store, model).versions())
    return forgotten - {hold.version for hold in holds(store, model)} if forgotten else forgotten


@dataclass
class References:
    """The blobs that anything refers to, over all models of a store. What never changes is read once.

    Attributes:
        forget: versions, by model, that count as forgotten although they are not yet.
    """

    store: ObjectStore
    blobs: Blobs
    forget: Mapping[str, frozenset[str]] = field(default_factory=dict)
    say: Say = say_nothing
    _bindings: dict[str, Binding] = field(default_factory=dict)
    _files: dict[str, frozenset[str]] = field(default_factory=dict)
    _notes: dict[tuple[str, str], Forgotten] = field(default_factory=dict)

    @_verify_hint()
    def __call__(self) -> frozenset[str]:
        """Their digests.

        Raises:
            IntegrityError: something can't be read, so what it refers to is unknown.
            NotNow: a newer release wrote here.
        """
        models = list(self.store.folders(layout.MODELS_PREFIX))
        return frozenset().union(self._of_backbones(), *map(self._of_model, models))

    def _of_backbones(self) -> set[str]:
        found = BackboneMirror(self.store, self.blobs).all()
        if found.damaged:
            raise BadManifest(f"a backbone can't be read: {found.damaged[0]}", hint="delete that object, or repair it")
        for why in found.refused.values():
            raise StoreDenied(why, hint="who may read that object knows which weights it names")
        return {mirrored.backbone.sha256 for mirrored in found}

    def _of_model(self, model: str) -> set[str]:
        versions = Bindings(self.store, self.blobs, model)
        bound = self._bound(versions, model)
        forgotten = self._forgotten(model) | self.forget.get(model, frozenset())
        held = holds(self.store, model)
        needed = {pointer for version, pointer in bound.items() if version not in forgotten}
        needed |= {hold.pointer or bound[hold.version] for hold in held if hold.pointer or hold.version in bound}
        unread = [pointer for pointer in needed if pointer.manifest_sha256 not in self._files]
        for pointer, manifest in zip(unread, in_parallel(versions.manifest, unread), strict=True):
            self._files[pointer.manifest_sha256] = frozenset(file.sha256 for file in manifest.files)
        manifests = {pointer.manifest_sha256 for pointer in [*bound.values(), *needed]}
        return manifests.union(*(self._files[pointer.manifest_sha256] for pointer in needed))

    def _bound(self, versions: Bindings, model: str) -> dict[str, Pointer]:
        """The versions of a model by name. A name never changes, so one that was read is not read again."""
        folder = layout.versions(model)
        keys = [info.key for info in self.store.list(folder)]
        new = [key for key in keys if key not in self._bindings]
        if new:
            self.say(f"reading {counted(len(new), 'version')} of {model}")
        self._bindings.update(zip(new, in_parallel(lambda key: _binding(versions, folder, key), new), strict=True))
        return {self._bindings[key].version: self._bindings[key].pointer for key in keys}

    def _forgotten(self, model: str) -> set[str]:
        """The versions that have a note now. A note never changes, so one that was read is not read again."""
        notes = forgotten_notes(self.store, model)
        listed = notes.versions()
        new = [version for version in listed if (model, version) not in self._notes]
        found = in_parallel(notes.find, new)
        self._notes |= {(model, note.version): note for note in found if note}
        return {version for version in listed if (model, version) in self._notes}


def _of_channel(store: ObjectStore, model: str, name: str) -> Iterator[Hold]:
    try:
        head, age = Channel(store, model, name).head_and_age()
    except BadInput as error:
        raise BadManifest(f"{layout.channel(model, name)} is not a channel's log: {error}", hint=_JUNK) from error
    if head is None:
        return
    if head.min_writer > WRITER:
        raise NotNow(
            f"the log of {model} {name} asks for writer {head.min_writer}, this release is writer {WRITER}",
            hint="upgrade ulora-registry: the log may refer to more than this release knows",
        )
    if name not in CHANNELS and age > SCRATCH_CHANNEL_AGE.total_seconds():
        return
    for why, pointer in ((f"stable in {name}", head.stable), (f"on trial in {name}", head.canary)):
        if pointer:
            yield Hold(pointer.version, why, _without_weight(pointer))
    yield from (Hold(pointer.version, f"on the stack of {name}", pointer) for pointer in head.stack)


def _of_replicas(store: ObjectStore, model: str) -> Iterator[Hold]:
    """What the replicas say they serve or have in memory."""

    def read(key: str) -> list[Hold]:
        try:
            stored = store.get(key, Heartbeat.LIMIT)
            # Before its age counts: a page in the place of the store is old, too.
            heartbeat = Heartbeat.parse(stored.body, key)
        except ObjectNotFound:  # the replica has ended since the listing
            return []
        except BadManifest as error:
            error.hint = f"delete {key}: the replica it belongs to writes it anew"
            raise
        if stored.age > SILENT_AFTER.total_seconds():
            return []
        names = {heartbeat.version, *heartbeat.resident} - {""}
        return [Hold(name, f"held by replica {heartbeat.id}") for name in sorted(names)]

    keys = [info.key for info in store.list(layout.all_replicas(model))]
    return chain.from_iterable(in_parallel(read, keys))


def _binding(versions: Bindings, folder: str, key: str) -> Binding:
    try:
        name = VersionName.parse(layout.stem(key))
        if key != f"{folder}{name}.json":
            raise BadManifest(f"{key} does not bind a version", hint=_JUNK)
        binding = versions.find(name)
    except BadInput as error:
        raise BadManifest(f"{key} does not bind a version: {error}", hint=_JUNK) from error
    if binding is None:  # it may be a version's, whose files must stay
        raise NotAsListed(key)
    return binding


def _without_weight(pointer: Pointer) -> Pointer:
    """A canary's pointer without its weight."""
    return Pointer(version=pointer.version, manifest_sha256=pointer.manifest_sha256)

"""Backbones in the store: the weights of each once, as a blob; versions of all models find them by their digest.

What people mean by a backbone's name belongs to the torch side, and is found through the entry point group
`ulora.backbones`: the name is a flavor, the value a function `(spec, *, revision) -> (BackboneRef, weights file)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from registry.errors import (
    BadInput,
    BadManifest,
    BadWeights,
    Conflict,
    CorruptBlob,
    KeyExists,
    MissingBlob,
    MissingDependency,
    ObjectNotFound,
)
from registry.formats.document import Document, first_problem
from registry.machine import clock
from registry.parallel import in_parallel
from registry.plugins import plugin
from registry.progress import Progress, no_progress
from registry.store import layout
from registry.store.blobs import Blobs
from registry.store.objects import ObjectStore
from registry.store.publishing import publish
from registry.versions.manifest import BackboneRef, FileEntry
from registry.versions.weights import read_header

GROUP = "ulora.backbones"
_EXTRA = "pip install 'ulora-registry[dino]'"

FetchBlob = Callable[[str], Path | None]
"""Gives a verified local file of a backbone's weights by their sha256, None if the store holds none."""


class MirroredBackbone(Document):
    """A backbone whose weights the store holds. Written once, never changed.

    Attributes:
        backbone: as versions name it; `backbone.name` is what people call it.
        size: bytes of its weights.
        when: UTC, ISO 8601.
    """

    format: Literal[1]
    backbone: BackboneRef
    size: int = Field(gt=0, le=5 * 1024**4)
    who: str = Field(max_length=500)
    when: str = Field(max_length=40)

    @property
    def weights(self) -> FileEntry:
        """The blob of its weights."""
        return FileEntry(path="model.safetensors", size=self.size, sha256=self.backbone.sha256)


@dataclass(frozen=True)
class Mirrored:
    """The backbones in the store, by name, and what can't be read there."""

    backbones: tuple[MirroredBackbone, ...]
    damaged: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[MirroredBackbone]:
        return iter(self.backbones)


@dataclass(frozen=True)
class AddedBackbone:
    """A backbone that was put into the store, or was there already.

    Attributes:
        is_new: False when the store had it: what it says of it, its name too, stays.
        uploaded: the bytes that travelled.
    """

    mirrored: MirroredBackbone
    is_new: bool
    uploaded: int


@dataclass(frozen=True)
class LocalBackbone:
    """A backbone whose weights are in a file of this machine. `size` is in bytes."""

    ref: BackboneRef
    weights: Path
    size: int


class BackboneMirror:
    """The backbones of one store, seen through the machine's cache of blobs. Threads may share it."""

    def __init__(self, store: ObjectStore, blobs: Blobs) -> None:
        self._store = store
        self._blobs = blobs

    def all(self) -> Mirrored:
        """All backbones of the store. One that can't be read hides no other."""
        found = in_parallel(self._try_to_read, [info.key for info in self._store.list(layout.BACKBONES_PREFIX)])
        readable = [each for each in found if isinstance(each, MirroredBackbone)]
        return Mirrored(
            backbones=tuple(sorted(readable, key=lambda each: (each.backbone.name, each.backbone.sha256))),
            damaged=tuple(each for each in found if isinstance(each, str)),
        )

    def find(self, sha256: str) -> MirroredBackbone | None:
        """The backbone whose weights have this digest, None if the store does not hold it.

        Raises:
            BadManifest: what the store says of it is damaged.
        """
        try:
            return self._read(layout.backbone(sha256))
        except ObjectNotFound:
            return None

    def fetch(self, sha256: str) -> Path | None:
        """The weights of a backbone on this disk, verified in this call; None if the store does not hold it.

        Raises:
            MissingBlob, CorruptBlob, BadManifest: it should, but the weights are not as they should be.
            DiskFull, StoreDenied, StoreUnreachable.
        """
        mirrored = self.find(sha256)
        if mirrored is None:
            return None
        try:
            return self._blobs.fetch([mirrored.weights])[sha256]
        except MissingBlob as error:
            raise MissingBlob(
                f"the weights of {mirrored.backbone.name} ({sha256}) are no longer in the store",
                hint=f"`ulora backbone add {_source(mirrored)}` puts them there again",
            ) from error
        except CorruptBlob as error:
            raise CorruptBlob(
                f"the weights of {mirrored.backbone.name} in the store do not hash to {sha256}",
                hint="`ulora verify --all --repair DIR` puts good ones there, if DIR holds its model.safetensors",
            ) from error

    def plan(self, local: LocalBackbone, who: str) -> AddedBackbone:
        """What `add` would leave in the store. Nothing is written.

        Raises:
            Conflict: the store holds these weights with another configuration.
        """
        kept = self.find(local.ref.sha256)
        if kept is not None:
            _check_same(kept, local)
        return AddedBackbone(kept or _describe(local, who), is_new=kept is None, uploaded=0)

    def add(self, local: LocalBackbone, who: str, progress: Progress = no_progress) -> AddedBackbone:
        """Put a backbone into the store: its weights, then the note of them. Again, it does what is still undone.

        Raises:
            Conflict: the store holds these weights with another configuration.
            CorruptBlob: the file changed since it was hashed, or the store holds other bytes under this digest.
        """
        planned = self.plan(local, who)
        note = planned.mirrored

        def commit() -> MirroredBackbone | None:
            return self._note(note, local) if planned.is_new else note

        done = publish(self._store, [note.weights], lambda _: nullcontext(local.weights), commit, progress)
        return AddedBackbone(done.value or note, is_new=done.value is None, uploaded=done.uploaded)

    def _note(self, note: MirroredBackbone, local: LocalBackbone) -> MirroredBackbone | None:
        """Say what the weights are; None, or what somebody else has just said of them."""
        key = layout.backbone(note.backbone.sha256)
        try:
            self._store.create(key, note.to_bytes())
        except KeyExists:
            kept = self._read(key)
            _check_same(kept, local)
            return kept
        return None

    def _read(self, key: str) -> MirroredBackbone:
        mirrored = MirroredBackbone.parse(self._store.get(key).body, key)
        if layout.backbone(mirrored.backbone.sha256) != key:
            raise BadManifest(f"{key} speaks of other weights, {mirrored.backbone.sha256}")
        return mirrored

    def _try_to_read(self, key: str) -> MirroredBackbone | str:
        try:
            return self._read(key)
        except (BadManifest, ObjectNotFound) as error:
            return f"{key}: {error}"


def find_backbone(
    spec: Path | str, *, flavor: str, revision: str | None = None, name: str | None = None
) -> LocalBackbone:
    """What people mean by a backbone, on this machine; from the hub if need be.

    Args:
        spec: a folder, or a repository on the hub.
        flavor: whose entry point knows it.
        name: what to call it instead of its own name.

    Raises:
        BackboneNotFound, BadInput, BadManifest: it is nowhere, can't be meant, or its configuration is none.
        BadWeights: its weights are no sound safetensors file, or do not fit its configuration.
        MissingDependency: nothing installed knows backbones of this flavor.
    """
    resolve = plugin(GROUP, flavor)
    try:
        ref, weights = resolve(spec, revision=revision)
    except ModuleNotFoundError as error:
        raise MissingDependency(f"backbones of flavor {flavor} need {error.name}", hint=_EXTRA) from error
    _check_weights(weights)
    return LocalBackbone(_named(ref, name), weights, weights.stat().st_size)


def _check_weights(path: Path) -> None:
    try:
        tensors = read_header(path, str(path))
    except BadWeights as error:
        raise BadWeights(str(error), hint=error.hint or "get the file again; nothing was added") from error
    if not tensors:
        raise BadWeights(f"{path} holds no tensors", hint="get the file again; nothing was added")


def _check_same(kept: MirroredBackbone, local: LocalBackbone) -> None:
    """Check that weights in the store are to be read as those that were given: versions that are made here say so."""
    stored, given = kept.backbone.config, local.ref.config
    differing = sorted(name for name in stored.keys() | given.keys() if stored.get(name) != given.get(name))
    if differing:
        raise Conflict(
            f"the store holds these weights as {kept.backbone.name}, whose config.json has another "
            f"{', '.join(differing[:5])}; {kept.who} added it at {kept.when}",
            hint="use the config.json of the store, or write these weights anew if they are meant to be read otherwise",
        )


def _source(mirrored: MirroredBackbone) -> str:
    """What people gave when they added it, as far as it is known."""
    ref = mirrored.backbone
    return f"DIR --name {ref.name}" if ref.hub_id is None else f"{ref.hub_id} --revision {ref.revision or 'main'}"


def _describe(local: LocalBackbone, who: str) -> MirroredBackbone:
    return MirroredBackbone(format=1, backbone=local.ref, size=local.size, who=who[:500], when=clock.timestamp())


def _named(ref: BackboneRef, name: str | None) -> BackboneRef:
    if name is None:
        return ref
    if not name.isprintable() or "/" in name or name != name.strip():
        raise BadInput(f"{name[:80]!r} is not a backbone's name", hint="for example plant-vit-2026")
    try:
        return BackboneRef.model_validate({**ref.model_dump(exclude_unset=True), "name": name})
    except ValidationError as error:
        raise BadInput(f"{name[:80]!r} is not a backbone's name: {first_problem(error)}") from error

"""Backbones in the store: the weights of each are stored once, as a blob; all models find them by their digest.

The code that finds a backbone by its name or folder needs torch, and is found through the entry point group
`ulora.backbones`: the name is a flavor, the value a function `(spec, *, revision) -> (BackboneRef, weights file)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
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
    StoreDenied,
    install_hint,
)
from registry.formats.document import Document, first_problem
from registry.machine import clock
from registry.parallel import in_parallel
from registry.plugins import BACKBONES, plugin
from registry.progress import Progress, no_progress
from registry.store import layout
from registry.store.blobs import Blobs
from registry.store.objects import ObjectStore
from registry.store.publishing import publish
from registry.store.refusals import as_listed
from registry.versions.manifest import BackboneRef, FileEntry
from registry.versions.weights import read_header

_EXTRA = install_hint("dino")

FetchBlob = Callable[[str], Path | None]
"""Returns a verified local file of a backbone's weights by their sha256, None if the store does not have them."""


class MirroredBackbone(Document):
    """A backbone whose weights are in the store. Written once, never changed.

    Attributes:
        backbone: as manifests store it; `backbone.name` is for people.
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
        """Its weights as a blob."""
        return FileEntry(path="model.safetensors", size=self.size, sha256=self.backbone.sha256)


@dataclass(frozen=True)
class Mirrored:
    """The backbones in the store, sorted by name, and the keys that can't be read, with the reason.

    Attributes:
        refused: those that the store refuses to give, which may be whole: why, by key.
    """

    backbones: tuple[MirroredBackbone, ...]
    damaged: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[MirroredBackbone]:
        return iter(self.backbones)


@dataclass(frozen=True)
class AddedBackbone:
    """A backbone that was added to the store, or was in it already.

    Attributes:
        is_new: False if the store had it; then its stored name and other fields stay.
        uploaded: the bytes that were uploaded.
    """

    mirrored: MirroredBackbone
    is_new: bool
    uploaded: int


@dataclass(frozen=True)
class LocalBackbone:
    """A backbone whose weights are in a local file. `size` is in bytes."""

    ref: BackboneRef
    weights: Path
    size: int


class BackboneMirror:
    """The backbones of one store, read through the local cache of blobs. Threads may share it."""

    def __init__(self, store: ObjectStore, blobs: Blobs) -> None:
        self._store = store
        self._blobs = blobs

    def all(self) -> Mirrored:
        """All backbones of the store. If one can't be read, the others are still returned."""
        refused: dict[str, str] = {}
        keys = [info.key for info in self._store.list(layout.BACKBONES_PREFIX)]
        found = in_parallel(lambda key: self._try_to_read(key, refused), keys)
        readable = [each for each in found if isinstance(each, MirroredBackbone)]
        return Mirrored(
            backbones=tuple(sorted(readable, key=lambda each: (each.backbone.name, each.backbone.sha256))),
            damaged=tuple(each for each in found if isinstance(each, str)),
            refused=dict(sorted(refused.items())),
        )

    def find(self, sha256: str) -> MirroredBackbone | None:
        """The backbone whose weights have this digest, None if the store does not have it.

        Raises:
            BadManifest: its stored document is damaged.
        """
        try:
            return self._read(layout.backbone(sha256))
        except ObjectNotFound:
            return None

    def fetch(self, sha256: str) -> Path | None:
        """A local file with the weights of a backbone, verified in this call; None if the store does not have it.

        Raises:
            MissingBlob: the store has the backbone's document, but not the weights.
            CorruptBlob: the weights have another sha256.
            BadManifest: the backbone's document is damaged.
            DiskFull: no space is left in the cache.
            StoreDenied: the store refuses the credentials.
            StoreUnreachable: the store does not answer.
        """
        mirrored = self.find(sha256)
        if mirrored is None:
            return None
        try:
            return self._blobs.fetch([mirrored.weights])[sha256]
        except MissingBlob as error:
            raise MissingBlob(
                f"the weights of {mirrored.backbone.name} ({sha256}) are no longer in the store",
                hint=f"`ulora backbone add {_source(mirrored)}` adds them again",
            ) from error
        except CorruptBlob as error:
            raise CorruptBlob(
                f"the weights of {mirrored.backbone.name} in the store do not have the sha256 {sha256}",
                hint="`ulora verify --all --repair DIR` replaces them, if DIR has the right model.safetensors",
            ) from error

    def plan(self, local: LocalBackbone, who: str) -> AddedBackbone:
        """What `add` would store. Nothing is written.

        Raises:
            Conflict: the store has these weights with another configuration.
        """
        kept = self.find(local.ref.sha256)
        if kept is not None:
            _check_same(kept, local)
        return AddedBackbone(kept or _describe(local, who), is_new=kept is None, uploaded=0)

    def add(self, local: LocalBackbone, who: str, progress: Progress = no_progress) -> AddedBackbone:
        """Add a backbone to the store: its weights, then its document. Running it again completes what is missing.

        Raises:
            Conflict: the store has these weights with another configuration.
            CorruptBlob: the file changed since it was hashed, or the store has other bytes under this digest.
        """
        planned = self.plan(local, who)
        document = planned.mirrored

        def commit() -> MirroredBackbone | None:
            return self._create(document, local) if planned.is_new else document

        done = publish(self._store, [document.weights], lambda _: nullcontext(local.weights), commit, progress)
        return AddedBackbone(done.value or document, is_new=done.value is None, uploaded=done.uploaded)

    def _create(self, document: MirroredBackbone, local: LocalBackbone) -> MirroredBackbone | None:
        """Store a backbone's document; return None, or the document that another process has just stored."""
        key = layout.backbone(document.backbone.sha256)
        try:
            self._store.create(key, document.to_bytes())
        except KeyExists:
            kept = self._read(key)
            _check_same(kept, local)
            return kept
        return None

    def _read(self, key: str) -> MirroredBackbone:
        mirrored = MirroredBackbone.parse(self._store.get(key).body, key)
        if layout.backbone(mirrored.backbone.sha256) != key:
            raise BadManifest(f"{key} describes other weights, {mirrored.backbone.sha256}")
        return mirrored

    def _try_to_read(self, key: str, refused: dict[str, str]) -> MirroredBackbone | str | None:
        try:
            with as_listed():
                return self._read(key)
        except StoreDenied as error:
            refused[key] = str(error)
            return None
        except BadManifest as error:
            return f"{key}: {error}"


def find_backbone(
    spec: Path | str, *, flavor: str, revision: str | None = None, name: str | None = None
) -> LocalBackbone:
    """Find a backbone on this machine; download it from the hub if necessary.

    Args:
        spec: a folder, or a repository on the hub.
        flavor: selects the entry point that finds it.
        name: the name to use instead of its own.

    Raises:
        BackboneNotFound: it was not found anywhere.
        BadInput: `spec`, `revision` or `name` is invalid.
        BadManifest: its configuration is damaged.
        BadWeights: its weights are not a valid safetensors file, or do not fit its configuration.
        MissingDependency: no installed package supports backbones of this flavor.
    """
    resolve = plugin(BACKBONES, flavor)
    try:
        ref, weights = resolve(spec, revision=revision)
    except ModuleNotFoundError as error:
        raise MissingDependency(f"backbones of flavor {flavor} need the package {error.name}", hint=_EXTRA) from error
    _check_weights(weights)
    return LocalBackbone(_named(ref, name), weights, weights.stat().st_size)


def _check_weights(path: Path) -> None:
    try:
        tensors = read_header(path, str(path))
    except BadWeights as error:
        raise BadWeights(str(error), hint=error.hint or "download the file again; nothing was added") from error
    if not tensors:
        raise BadWeights(f"{path} has no tensors", hint="download the file again; nothing was added")


def _check_same(kept: MirroredBackbone, local: LocalBackbone) -> None:
    """Check that the backbone in the store has the same configuration as the local one."""
    stored, given = kept.backbone.config, local.ref.config
    differing = sorted(name for name in stored.keys() | given.keys() if stored.get(name) != given.get(name))
    if differing:
        raise Conflict(
            f"the store has these weights as {kept.backbone.name}, with another {', '.join(differing[:5])} in its "
            f"config.json; {kept.who} added it at {kept.when}",
            hint="use the config.json of the store, or save the weights again if they need another configuration",
        )


def _source(mirrored: MirroredBackbone) -> str:
    """The arguments with which it can be added again, as far as they are known."""
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

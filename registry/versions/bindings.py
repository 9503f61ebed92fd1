"""Bindings: which manifest a version's name is bound to. A name is bound once and never changes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from difflib import get_close_matches
from typing import ClassVar, Literal, Self

from pydantic import Field

from registry.errors import (
    BadManifest,
    CorruptBlob,
    KeyExists,
    MissingBlob,
    NotAsListed,
    ObjectNotFound,
    VersionExists,
    VersionNotFound,
)
from registry.formats.document import Document, Sha256
from registry.names import VersionName, is_version_name
from registry.store import layout
from registry.store.blobs import Blobs
from registry.store.object_info import ObjectInfo
from registry.store.objects import ObjectStore
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer


class Binding(Document):
    """The stored object that binds a version's name to its manifest. Create-only: a version never changes."""

    LIMIT: ClassVar[int] = 64 * 1024

    format: Literal[1]
    model: str = Field(max_length=100)
    version: str = Field(max_length=120)
    manifest_sha256: Sha256
    content_sha256: Sha256

    @classmethod
    def of(cls, manifest: Manifest, manifest_sha256: str) -> Self:
        """The binding of a manifest's name to it."""
        return cls(
            format=1,
            model=manifest.model,
            version=manifest.version,
            manifest_sha256=manifest_sha256,
            content_sha256=manifest.content_sha256,
        )

    @property
    def pointer(self) -> Pointer:
        """The version as a channel stores it."""
        return Pointer(version=self.version, manifest_sha256=self.manifest_sha256)


class Bindings:
    """The version names of one model, and the manifests that they are bound to."""

    def __init__(self, store: ObjectStore, blobs: Blobs, model: str) -> None:
        self._store = store
        self._blobs = blobs
        self._model = model

    def names(self) -> list[VersionName]:
        """All version names, in their order."""
        return self._names(self._store.list(layout.versions(self._model)))

    def existing_names(self) -> list[VersionName]:
        """All version names, in their order; an empty list only where the store and the model are the right ones.

        Raises:
            NotFound: there is no store, or no such model in it.
        """
        names = self.names()
        if not names:
            self._store.check_holds(self._model)
        return names

    def settled(self, age: timedelta) -> list[VersionName]:
        """The names that were bound at least `age` ago by the server's clock, so that their `create` has finished."""
        before = self._store.now() - age
        infos = self._store.list(layout.versions(self._model))
        return self._names(info for info in infos if info.modified is None or info.modified <= before)

    def find(self, name: VersionName) -> Binding | None:
        """The binding of a name, None if the name is free.

        Raises:
            BadManifest: the binding is damaged, or that of another name.
        """
        key = layout.version(self._model, str(name))
        try:
            body = self._store.get(key, Binding.LIMIT).body
        except ObjectNotFound:
            return None
        binding = Binding.parse(body, key)
        if (binding.model, binding.version) != (self._model, str(name)):
            raise BadManifest(f"{key} binds {binding.model} {binding.version}")
        return binding

    def get(self, name: VersionName) -> Binding:
        """The binding of a name.

        Raises:
            VersionNotFound: the name is free.
            NotFound: there is no store, or no such model in it.
            NotAsListed: the store lists the name, and does not give its binding.
            BadManifest: the binding is damaged, or that of another name.
        """
        binding = self.find(name)
        if binding is None:
            self._store.check_holds(self._model)
            names = [str(each) for each in self.names()]
            if str(name) in names:
                raise NotAsListed(layout.version(self._model, str(name)))
            near = get_close_matches(str(name), names, n=3)
            hint = (f"did you mean {' or '.join(near)}? " if near else "") + "`ulora list` shows the versions"
            raise VersionNotFound(f"{self._model} has no version {name}", hint=hint)
        return binding

    def manifest(self, pointer: Pointer) -> Manifest:
        """The manifest that a pointer names, verified.

        Raises:
            MissingBlob: it is not in the store.
            CorruptBlob: its bytes have another sha256.
            BadManifest: it does not follow the format, or is that of another version.
        """
        what = f"the manifest of {pointer.version}"
        try:
            manifest = Manifest.parse(self._blobs.read(pointer.manifest_sha256), what)
        except (MissingBlob, CorruptBlob) as error:
            hint = f"`ulora verify {pointer.version} --repair DIR` restores it from a copy of its version.json in DIR"
            raise type(error)(f"{what}: {error}", hint=hint) from error
        if (manifest.model, manifest.version) != (self._model, pointer.version):
            raise BadManifest(f"{what} is that of {manifest.model} {manifest.version}")
        return manifest

    def _names(self, infos: Iterable[ObjectInfo]) -> list[VersionName]:
        folder = layout.versions(self._model)
        stems = (info.key.removeprefix(folder).removesuffix(".json") for info in infos)
        return sorted(VersionName.parse(stem) for stem in stems if is_version_name(stem))

    def bind(self, manifest: Manifest, manifest_sha256: str) -> bool:
        """Bind the name of a manifest: the commit of `create`. False if it is bound to equal content already.

        A new binding is read back. Where the store does not answer that, the name is bound all the same.

        Raises:
            VersionExists: the name is bound to other content.
            Overwritten: the binding was replaced right away, or may have replaced another's.
        """
        binding = Binding.of(manifest, manifest_sha256)
        key = layout.version(self._model, manifest.version)
        try:
            self._store.create(key, binding.to_bytes())
        except KeyExists as error:
            self.check_same(self.get(manifest.name), manifest.content_sha256, error)
            return False
        self._store.confirm(key, binding.to_bytes())
        return True

    def check_same(self, found: Binding, content_sha256: str, cause: Exception | None = None) -> None:
        """Check that a binding has this content.

        Raises:
            VersionExists: it has other content.
        """
        if found.content_sha256 != content_sha256:
            raise VersionExists(
                f"{found.version} exists with other content ({found.content_sha256[:12]}, not {content_sha256[:12]})",
                hint="a version never changes: choose the next name",
            ) from cause

"""Releases for tests: from a bundle on disk to a version that a channel serves, with nothing but the store's parts.

`load_echo` is a loader of another flavor, `echo`: it needs no torch and answers with a digest of the version's own
adapter bytes and the image, so that a test can tell by any answer which bytes gave it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registry.channels.channel import Channel, RollbackOptions
from registry.channels.record import Author, ChannelPosition, Record, promoted
from registry.names import VersionName
from registry.serving.loaders import Loader
from registry.store import layout
from registry.store.blobs import Blobs
from registry.store.objects import ObjectStore
from registry.versions.bindings import Bindings
from registry.versions.bundle import read_bundle
from registry.versions.manifest import FileEntry, Manifest
from registry.versions.pointer import Pointer
from tests.support.bundles import write_bundle

ECHO = "echo"
TESTER = Author("a test")


@dataclass(frozen=True)
class Shop:
    """A model in a store, seen through a cache of the test's own; `bundles` is where bundles are written."""

    store: ObjectStore
    model: str
    folder: Path

    @property
    def blobs(self) -> Blobs:
        return Blobs(self.store, self.folder / "cache")

    @property
    def versions(self) -> Bindings:
        return Bindings(self.store, self.blobs, self.model)

    def channel(self, name: str = "production") -> Channel:
        return Channel(self.store, self.model, name)

    def release(self, name: str, bundle: Path | None = None, *, flavor: str = ECHO) -> Pointer:
        """Make a version of a bundle, by default of one that no other version of this shop has."""
        bundle = bundle or write_bundle(self.folder / "bundles" / name, seed=_seed(name), targets=("low", "mid"))
        content = read_bundle(bundle)
        manifest = Manifest.make(
            model=self.model,
            version=name,
            flavor=flavor,
            backbone=content.backbone,
            components=content.components,
            files=content.files,
            timestamp=datetime.now(UTC).isoformat(),
        )
        self.blobs.upload(content.sources)
        self.versions.bind(manifest, self.blobs.put(manifest.to_bytes()))
        return self.pointer(name)

    def pointer(self, name: str) -> Pointer:
        return self.versions.get(VersionName.parse(name)).pointer

    def manifest(self, name: str) -> Manifest:
        return self.versions.manifest(self.pointer(name))

    def promote(self, name: str, channel: str = "production") -> Record:
        log = self.channel(channel)
        record = promoted(ChannelPosition(self.model, channel, log.head()), self.pointer(name), TESTER, None)
        log.commit(record)
        return record

    def rollback(self, channel: str = "production") -> Record:
        return self.channel(channel).rollback(TESTER, RollbackOptions(again=True)).record

    def file(self, name: str, path: str) -> FileEntry:
        """A file of a version."""
        return next(file for file in self.manifest(name).files if file.path == path)

    def flip_a_byte(self, name: str, path: str) -> Callable[[], None]:
        """Damage a file's blob in the store; what is returned puts the right bytes back."""
        key = layout.blob(self.file(name, path).sha256)
        good = self.store.get(key).body
        self.store.overwrite(key, bytes([good[0] ^ 1]) + good[1:])
        return lambda: self.store.overwrite(key, good)

    def lose(self, name: str, path: str) -> Callable[[], None]:
        """Take a file's blob out of the store; what is returned puts it back."""
        key = layout.blob(self.file(name, path).sha256)
        good = self.store.get(key).body
        self.store.delete(key)
        return lambda: self.store.overwrite(key, good)


@dataclass(frozen=True)
class EchoAnswer:
    """What an echo version answers."""

    version: str
    answer: str
    outcome: str = "answer"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Echo:
    """A version of flavor `echo`. The image `fail VERSION` makes that version fail."""

    version: str
    content_sha256: str
    weights: bytes = field(repr=False)
    targets: tuple[str, ...] = ("low",)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"low": ("echo",)})
    runtime: str = "plain"

    def predict(self, images: bytes | list[bytes], *, target: object = None) -> EchoAnswer | list[EchoAnswer]:
        if isinstance(images, list):
            return [self.predict(image) for image in images]
        if images == f"fail {self.version}".encode():
            raise RuntimeError("it was asked to fail")
        return EchoAnswer(self.version, hashlib.sha256(self.weights + images).hexdigest())

    def self_test(self) -> None:
        """It has no recorded outputs."""


def load_echo(manifest: Manifest, files: Mapping[str, Path], **how: Any) -> Echo:
    """The loader of flavor `echo`, which needs neither a device, a runtime nor a backbone."""
    weights = files["adapters/low/adapter_model.safetensors"].read_bytes()
    return Echo(manifest.version, manifest.content_sha256, weights)


def find_echo(flavor: str) -> Loader:
    """What `Live` asks for the loader of a flavor."""
    assert flavor == ECHO
    return load_echo


def wait_until(true: Callable[[], object], seconds: float = 180) -> None:
    """Return as soon as a condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.01)


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")

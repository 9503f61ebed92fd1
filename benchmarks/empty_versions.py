"""Versions without files, by the hundred: for what is measured of channels and names, where files play no part."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.comparison import say
from registry.api import Registry
from registry.channels.record import Author, ChannelPosition, promoted
from registry.machine import clock
from registry.names import VersionName
from registry.parallel import in_parallel
from registry.store import layout
from registry.versions.bindings import Binding
from registry.versions.manifest import Component, Manifest
from registry.versions.pointer import Pointer

CHANNEL = "production"
_AUTHOR = Author("a benchmark")
_BATCH = 1000


def bind_empty(registry: Registry, names: Sequence[str]) -> None:
    """Bind names to manifests without files, straight into the store: 2 writes each, without reading back."""

    def bind(name: str) -> None:
        manifest = Manifest.make(
            model=registry.model, version=name, flavor="empty", backbone=None, files=[],
            components={name.replace(".", "-"): Component()}, timestamp=clock.timestamp(),
        )  # fmt: skip
        binding = Binding.of(manifest, registry.blobs.put(manifest.to_bytes()))
        registry.store.create(layout.version(registry.model, name), binding.to_bytes())

    for start in range(0, len(names), _BATCH):
        if len(names) > _BATCH:
            say(f"{registry.model}: {start} of {len(names)} versions are in the store")
        in_parallel(bind, names[start : start + _BATCH])


def version_names(count: int) -> list[str]:
    """So many names of versions."""
    return [f"v1.{number}.0" for number in range(count)]


def pointer_to(registry: Registry, name: str) -> Pointer:
    """A version as a channel stores it."""
    return registry.bindings.get(VersionName.parse(name)).pointer


def serve(registry: Registry, pointer: Pointer, channel: str = CHANNEL) -> int:
    """Make a version stable, without gates; returns the generation."""
    log = registry.channel(channel)
    record = promoted(ChannelPosition(registry.model, channel, log.head()), pointer, _AUTHOR, None)
    log.commit(record)
    return record.generation

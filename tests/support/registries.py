"""A `Registry` on the test's own store, under a policy that asks nothing: for tests that are not about gates."""

from __future__ import annotations

from pathlib import Path

from registry.api import Registry
from registry.names import VersionName
from registry.settings import Settings
from registry.store import layout
from registry.versions.manifest import Component, FileEntry, Manifest
from tests.support.bundles import write_bundle

ASKS_NOTHING = "format: 1\nchannels: {staging: {}, production: {}}\n"


def write_policy(folder: Path) -> Path:
    """A policy file that lets everything pass."""
    path = folder / "policy.yaml"
    path.write_text(ASKS_NOTHING)
    return path


def open_registry(
    folder: Path,
    store: str,
    model: str,
    *,
    tracking_uri: str | None = None,
    endpoint_url: str | None = None,
    who: str = "a test",
) -> Registry:
    """A registry whose cache and policy are in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return Registry(
        settings=Settings(
            model=model,
            store=store,
            endpoint_url=endpoint_url,
            tracking_uri=tracking_uri,
            cache=folder / "cache",
            policy=write_policy(folder),
            who=who,
        )
    )


def small_bundle(folder: Path, seed: int = 0) -> Path:
    """A bundle with one target, about 100 KB."""
    return write_bundle(folder, seed=seed, targets=("low",))


def create(registry: Registry, name: str, folder: Path, seed: int | None = None) -> None:
    """Create a version offline from a bundle of its own, by default different from every other name's."""
    bundle = small_bundle(folder / name, seed=sum(map(ord, name)) if seed is None else seed)
    registry.create(name, bundle, offline=True)


def bind(registry: Registry, *names: str, content: str = "") -> None:
    """Bind versions without files, for tests that need none: it saves a second of uploads."""
    for name in names:
        manifest = Manifest.make(
            model=registry.model, version=name, flavor="empty", backbone=None, files=[],
            components={f"{name}{content}".replace(".", "-"): Component()}, timestamp="2026-11-21T12:00:00Z",
        )  # fmt: skip
        registry.bindings.bind(manifest, registry.blobs.put(manifest.to_bytes()))


def rebind(registry: Registry, name: str) -> tuple[str, str]:
    """Overwrite a version's binding with one to another manifest, as no command does; both digests, cut as in messages.

    The bytes that the name stood for stay in the store.
    """
    before = registry.bindings.get(VersionName.parse(name))
    other = Manifest.make(
        model=registry.model, version=name, flavor="empty", backbone=None, files=[],
        components={"other": Component()}, timestamp="2026-11-22T12:00:00Z",
    )  # fmt: skip
    digests = {"manifest_sha256": registry.blobs.put(other.to_bytes()), "content_sha256": other.content_sha256}
    after = before.model_copy(update=digests)
    registry.store.overwrite(layout.version(registry.model, name), after.to_bytes())
    return before.manifest_sha256[:12], after.manifest_sha256[:12]


def file_of(registry: Registry, name: str, path: str) -> FileEntry:
    """A file of a version."""
    return next(file for file in registry.manifest(name).files if file.path == path)


def flip_a_byte(registry: Registry, name: str, path: str) -> None:
    """Damage a file's blob in the store."""
    key = layout.blob(file_of(registry, name, path).sha256)
    body = registry.store.get(key).body
    registry.store.overwrite(key, bytes([body[0] ^ 1]) + body[1:])


def listing(registry: Registry) -> dict[str, int]:
    """Every key below the store's prefix and its size."""
    return {info.key: info.size for info in registry.store.list("")}

"""Load a version, serve it, follow a channel, or keep a folder at what it serves."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from registry.errors import IntegrityError, StoreDenied
from registry.names import CHANNELS, VersionName, check_channel
from registry.serving.admissions import Admissions
from registry.serving.fleet import Heartbeats
from registry.serving.follow import Live
from registry.serving.kept_state import StateKeeper, StatePlace
from registry.serving.loaders import Loaded, LoadOptions, load_version, no_mirror
from registry.serving.loads import LoadPointer
from registry.serving.options import LiveOptions
from registry.serving.pinned import FoundVersion, PinnedVersion
from registry.serving.sidecar import Sidecar
from registry.serving.sidecar_round import SidecarOptions
from registry.serving.steps import Steps
from registry.store.endpoint import named_endpoint
from registry.store.objects import ObjectStore
from registry.usecases.checks import check_followed, check_trusted
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer
from registry.wiring import Wiring


def load(wiring: Wiring, version: str, *, device: str, runtime: str | None) -> Loaded:
    """Load one version; see `Registry.load`."""
    pointer = wiring.bindings.get(VersionName.parse(version)).pointer
    options = LoadOptions(device, runtime, wiring.backbone_mirror.fetch, partial(check_trusted, wiring))
    return load_version(wiring.bindings, wiring.blobs, pointer, options)


def follow(wiring: Wiring, channel: str, options: LiveOptions | None) -> Live:
    """Follow a channel; see `Registry.follow`."""
    heartbeats = Heartbeats(wiring.store, wiring.model, check_channel(channel))
    wanted = options or LiveOptions()
    return Live(
        wiring.channel(channel), wiring.bindings, wiring.blobs, _checked(wiring, wanted), fleet=heartbeats,
        check_model=lambda: wiring.store.check_holds(wiring.model), keeper=_keeper(wiring, channel, wanted),
    )  # fmt: skip


def pinned(wiring: Wiring, version: str, options: LiveOptions | None) -> Live:
    """Serve one version and follow no channel; see `Registry.pinned`."""
    log = PinnedVersion(wiring.model, version, partial(_find_pinned, wiring, VersionName.parse(version)))
    wanted = options or LiveOptions()
    return Live(
        log, wiring.bindings, wiring.blobs, _checked(wiring, wanted), keeper=_keeper(wiring, log.name, wanted)
    )  # fmt: skip


def _find_pinned(wiring: Wiring, name: VersionName) -> FoundVersion:
    """What a name is bound to; and who withdrew or forgot the version, as far as this identity may read that."""
    pointer = wiring.bindings.get(name).pointer
    warnings = [f"{channel} has withdrawn {name}" for channel in CHANNELS if _is_withdrawn(wiring, channel, name)]
    with suppress(StoreDenied, IntegrityError):
        if note := wiring.forgotten.find(str(name)):
            warnings.append(
                f"{name} was forgotten by {note.who} at {note.when}: its files are gone from the store, or will be, "
                f"so another machine can't load it; `ulora store remember {name}` takes that back"
            )
    return FoundVersion(pointer, "; ".join(warnings))


def _is_withdrawn(wiring: Wiring, channel: str, name: VersionName) -> bool:
    with suppress(StoreDenied, IntegrityError):
        head = wiring.channel(channel).head()
        return head is not None and str(name) in head.withdrawn
    return False


def sidecar(wiring: Wiring, channel: str, folder: Path, options: SidecarOptions | None) -> Sidecar:
    """Keep a folder at what a channel serves; see `Registry.sidecar`."""

    def admit(store: ObjectStore, pointer: Pointer) -> Manifest:
        parts = wiring.through(store)
        manifest = parts.bindings.manifest(pointer)
        check_followed(parts, manifest)
        return manifest

    return Sidecar(
        wiring.channel(check_channel(channel)), Admissions(wiring.store, admit), wiring.blobs, folder, options,
        check_model=lambda: wiring.store.check_holds(wiring.model),
    )  # fmt: skip


def _checked(wiring: Wiring, wanted: LiveOptions) -> LiveOptions:
    """The options, with the check of what may be followed before their own, and the store's backbones."""

    def check(manifest: Manifest) -> None:
        check_followed(wiring, manifest)
        wanted.check(manifest)

    fetch = wiring.backbone_mirror.fetch if wanted.fetch is no_mirror else wanted.fetch
    return replace(wanted, check=check, fetch=fetch)


def _keeper(wiring: Wiring, channel: str, wanted: LiveOptions) -> StateKeeper:
    def load_through(store: ObjectStore) -> LoadPointer:
        parts = wiring.through(store)
        return partial(_load_followed, parts, _checked(parts, wanted))

    settings = wiring.settings
    place = StatePlace(settings.cache, settings.store, named_endpoint(settings.endpoint_url), wiring.model, channel)
    return StateKeeper(place, wiring.store, load_through, max_age=wanted.max_cache_age)


def _load_followed(wiring: Wiring, options: LiveOptions, pointer: Pointer, steps: Steps) -> Loaded:
    return load_version(wiring.bindings, wiring.blobs, pointer, options, steps)

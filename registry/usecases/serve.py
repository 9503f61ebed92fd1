"""Load a version, follow a channel, or keep a folder at what it serves."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from registry.names import VersionName, check_channel
from registry.serving.fleet import Heartbeats
from registry.serving.follow import Live, LiveOptions
from registry.serving.loaders import Loaded, LoadOptions, load_version, no_mirror
from registry.serving.sidecar import Sidecar
from registry.serving.sidecar_round import SidecarOptions
from registry.usecases.checks import check_followed, check_trusted
from registry.versions.manifest import Manifest
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

    def check(manifest: Manifest) -> None:
        check_followed(wiring, manifest)
        wanted.check(manifest)

    fetch = wiring.backbone_mirror.fetch if wanted.fetch is no_mirror else wanted.fetch
    whole = replace(wanted, check=check, fetch=fetch)
    return Live(
        wiring.channel(channel), wiring.bindings, wiring.blobs, whole, fleet=heartbeats,
        check_model=lambda: wiring.store.check_holds(wiring.model),
    )  # fmt: skip


def sidecar(wiring: Wiring, channel: str, folder: Path, options: SidecarOptions | None) -> Sidecar:
    """Keep a folder at what a channel serves; see `Registry.sidecar`."""
    wanted = options or SidecarOptions()

    def check(manifest: Manifest) -> None:
        check_followed(wiring, manifest)
        wanted.check(manifest)

    return Sidecar(
        wiring.channel(check_channel(channel)), wiring.bindings, wiring.blobs, folder, replace(wanted, check=check),
        check_model=lambda: wiring.store.check_holds(wiring.model),
    )  # fmt: skip

"""Load a version, or follow a channel."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from registry.names import VersionName, check_channel
from registry.serving.fleet import Heartbeats
from registry.serving.follow import Live, LiveOptions
from registry.serving.loaders import Loaded, LoadOptions, allow_all, load_version, no_mirror
from registry.usecases.checks import check_followed, check_trusted
from registry.wiring import Wiring


def load(wiring: Wiring, version: str, *, device: str, runtime: str | None) -> Loaded:
    """Load one version; see `Registry.load`."""
    pointer = wiring.bindings.get(VersionName.parse(version)).pointer
    options = LoadOptions(device, runtime, wiring.backbone_mirror.fetch, partial(check_trusted, wiring))
    return load_version(wiring.bindings, wiring.blobs, pointer, options)


def follow(wiring: Wiring, channel: str, options: LiveOptions | None) -> Live:
    """Follow a channel; see `Registry.follow`."""
    heartbeats = Heartbeats(wiring.store, wiring.model, check_channel(channel))
    options = options or LiveOptions()
    if options.fetch is no_mirror:
        options = replace(options, fetch=wiring.backbone_mirror.fetch)
    if options.check is allow_all:
        options = replace(options, check=partial(check_followed, wiring))
    return Live(wiring.channel(channel), wiring.bindings, wiring.blobs, options, fleet=heartbeats)

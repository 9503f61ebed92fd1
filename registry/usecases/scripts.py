"""Rollback scripts: make them, pin the version that one goes back to, unpin it."""

from __future__ import annotations

from registry.breakglass.write_script import Script, StoreLocation
from registry.breakglass.write_script import rollback_script as write_script
from registry.errors import NothingToRollBackTo
from registry.machine import clock
from registry.names import VersionName, check_channel
from registry.parallel import in_parallel
from registry.retention.notes import Pin, check_remembered
from registry.usecases.checks import check_servable, check_whole
from registry.versions.manifest import Manifest
from registry.wiring import Wiring


def rollback_script(wiring: Wiring, version: str, channel: str, *, reason: str, dry_run: bool) -> Script:
    """The script that rolls a channel back to a version, which is pinned; see `Registry.rollback_script`."""
    manifest = wiring.manifest(version)
    check_remembered(wiring.forgotten, version)
    check_servable(wiring, manifest)
    script = script_of(wiring, manifest, check_channel(channel))
    if not dry_run:
        wiring.check_writable()
        pin = Pin(
            format=1, model=wiring.model, version=version, manifest_sha256=script.manifest_sha256, channel=channel,
            who=wiring.settings.who, when=clock.timestamp(), reason=reason,
        )  # fmt: skip
        wiring.pins.add(pin)
        check_whole(wiring, manifest)  # again, as garbage collection may have deleted files before the pin was there
    return script


def rollback_scripts(wiring: Wiring, channel: str) -> list[Script]:
    """The scripts of all versions that a rollback could go to now; see `Registry.rollback_scripts`."""
    head = wiring.channel(channel).head()
    if head is None:
        wiring.store.check_holds(wiring.model)
    targets = head.rollback_targets() if head else ()
    if not targets:
        raise NothingToRollBackTo(f"{wiring.model} {channel} has no earlier version to roll back to")
    manifests = in_parallel(wiring.bindings.manifest, targets)
    for manifest in manifests:
        check_servable(wiring, manifest)
    return [script_of(wiring, manifest, channel) for manifest in manifests]


def script_of(wiring: Wiring, manifest: Manifest, channel: str) -> Script:
    """The script that makes a channel of this store serve a version. Nothing is checked, and nothing is pinned."""
    settings = wiring.settings
    encryption = wiring.encryption.add_to({}) if wiring.encryption else {}
    return write_script(manifest, channel, StoreLocation(settings.store, settings.endpoint_url, encryption))


def unpin(wiring: Wiring, version: str) -> bool:
    """Let garbage collection delete a pinned version again; False if it was not pinned."""
    was_pinned = is_pinned(wiring, version)
    if was_pinned:
        wiring.pins.take_back(version)
    else:
        wiring.store.check_holds(wiring.model)
    return was_pinned


def is_pinned(wiring: Wiring, version: str) -> bool:
    """Whether a rollback script pins a version."""
    return wiring.pins.find(str(VersionName.parse(version))) is not None

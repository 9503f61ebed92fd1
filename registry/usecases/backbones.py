"""Put a backbone's weights into the store."""

from __future__ import annotations

from pathlib import Path

from registry.progress import OpenProgress, open_no_progress
from registry.versions.backbones import AddedBackbone, Mirrored, find_backbone
from registry.versions.bundle import DEFAULT_FLAVOR
from registry.wiring import Wiring


def backbones(wiring: Wiring) -> Mirrored:
    """The backbones that the store holds; see `Registry.backbones`."""
    found = wiring.backbone_mirror.all()
    if not (found.backbones or found.damaged or found.refused):
        wiring.store.check_target()  # backbones belong to the store, and come before a model's first version
    return found


def add_backbone(
    wiring: Wiring,
    spec: Path | str,
    *,
    revision: str | None,
    name: str | None,
    dry_run: bool,
    progress: OpenProgress | None,
) -> AddedBackbone:
    """Put a backbone's weights into the store; see `Registry.add_backbone`."""
    local = find_backbone(spec, flavor=DEFAULT_FLAVOR, revision=revision, name=name)
    if dry_run:
        return wiring.backbone_mirror.plan(local, wiring.settings.who)
    wiring.check_writable()
    with (progress or open_no_progress)(local.size) as advance:
        return wiring.backbone_mirror.add(local, wiring.settings.who, advance)

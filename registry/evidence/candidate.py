"""The version that gates judge, or compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from registry.names import VersionName
from registry.versions.manifest import Manifest

_ADAPTERS = "adapters/"


@dataclass(frozen=True)
class Candidate:
    """The version that is judged, or compared with: its name, content, targets, flavor, and manifest's digest."""

    model: str
    version: VersionName
    content_sha256: str
    targets: tuple[str, ...]
    flavor: str = ""
    manifest_sha256: str = ""

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The version that a manifest describes; its targets are its `adapters/<target>` components."""
        targets = sorted(name.removeprefix(_ADAPTERS) for name in manifest.components if name.startswith(_ADAPTERS))
        return cls(
            manifest.model, manifest.name, manifest.content_sha256, tuple(targets), manifest.flavor, manifest.sha256
        )

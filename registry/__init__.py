"""Version management for LoRA adapters on DINO backbones: gated promotion, S3-backed serving, instant rollback.

    from registry import Registry

    registry = Registry("aads-ulora")
    with registry.follow("production") as live:
        prediction = live.predict(image, key=request_id)

Importing this package is fast: each public name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.channels.channel import PromoteOptions, RollbackOptions
    from registry.errors import UloraError
    from registry.names import VersionName
    from registry.serving.batch.options import PredictOptions
    from registry.serving.follow import Live
    from registry.serving.options import LiveOptions
    from registry.serving.sidecar_round import SidecarOptions
    from registry.settings import Settings
    from registry.usecases.options import CopyOptions, CreateOptions, MeasureOptions, RestoreOptions, VerifyOptions
    from registry.usecases.version_test_options import TestOptions
    from registry.versions.bundle import ReleaseNotes

__all__ = [
    "CopyOptions", "CreateOptions", "Live", "LiveOptions", "MeasureOptions", "PredictOptions", "PromoteOptions",
    "Registry", "ReleaseNotes", "RestoreOptions", "RollbackOptions", "Settings", "SidecarOptions", "TestOptions",
    "UloraError", "VerifyOptions", "VersionName",
]  # fmt: skip

_HOMES = {
    "CopyOptions": "registry.usecases.options",
    "CreateOptions": "registry.usecases.options",
    "Live": "registry.serving.follow",
    "LiveOptions": "registry.serving.options",
    "MeasureOptions": "registry.usecases.options",
    "PredictOptions": "registry.serving.batch.options",
    "PromoteOptions": "registry.channels.channel",
    "Registry": "registry.api",
    "Settings": "registry.settings",
    "SidecarOptions": "registry.serving.sidecar_round",
    "ReleaseNotes": "registry.versions.bundle",
    "UloraError": "registry.errors",
    "RestoreOptions": "registry.usecases.options",
    "RollbackOptions": "registry.channels.channel",
    "TestOptions": "registry.usecases.version_test_options",
    "VerifyOptions": "registry.usecases.options",
    "VersionName": "registry.names",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'registry' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

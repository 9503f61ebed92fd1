"""What admits a version to a kept folder: its manifest and its signatures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from registry.serving.steps import Steps
from registry.store.objects import ObjectStore
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer

Admit = Callable[[ObjectStore, Pointer], Manifest]
"""Reads the manifest of a version through a store, and checks by what that holds that the version may be used."""


@dataclass(frozen=True)
class Admissions:
    """Admits versions of one store."""

    store: ObjectStore
    admit: Admit

    def asked(self, pointer: Pointer, steps: Steps) -> Manifest:
        """The manifest of a version that the store admits. It may hang, so `steps` are those of a load.

        Raises:
            NotTrusted: it may not be used.
            MissingBlob, CorruptBlob, BadManifest, StoreUnreachable, StoreDenied: its manifest can't be read.
        """
        with steps.step("manifest", float("inf")):
            return self.admit(self.store, pointer)

"""What admits a version to a kept folder: its manifest and its signatures, read from the store, and later without it.

A version that the folder holds must not become unusable because one object of it can't be read any more: a rollback is
needed most while something is broken. So what was read to admit it is kept beside it, and is checked again as if it
came from the store: by its digests, with the keys and the minimum version of now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from registry.errors import BadInput, UloraError
from registry.serving.steps import Steps
from registry.store.kept_documents import KeptDocuments, KeptStore, NotingStore
from registry.store.objects import ObjectStore
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer

Admit = Callable[[ObjectStore, Pointer], Manifest]
"""Reads the manifest of a version through a store, and checks by what that holds that the version may be used."""


@dataclass(frozen=True)
class Admitted:
    """A version that may be used.

    Attributes:
        documents: what was read to find that out, to be kept; None where it is kept already, or is too much.
    """

    manifest: Manifest
    documents: KeptDocuments | None = None


@dataclass(frozen=True)
class Admissions:
    """Admits versions of one store."""

    store: ObjectStore
    admit: Admit

    def asked(self, pointer: Pointer, steps: Steps) -> Admitted:
        """A version that the store admits. It may hang, so `steps` are those of a load.

        Raises:
            NotTrusted: it may not be used.
            MissingBlob, CorruptBlob, BadManifest, StoreUnreachable, StoreDenied: its manifest can't be read.
        """
        noting = NotingStore(self.store)
        with steps.step("manifest", float("inf")):
            manifest = self.admit(noting, pointer)
        documents = KeptDocuments.of(noting.documents)
        try:
            documents.to_bytes()
        except BadInput:  # it would be more than is read again
            return Admitted(manifest)
        return Admitted(manifest, documents)

    def kept(self, pointer: Pointer, data: bytes | None) -> Admitted | None:
        """A version that the kept documents admit, with no look at the store; None if the store has to be asked."""
        if data is None:
            return None
        try:
            documents = KeptDocuments.parse(data, f"what admitted {pointer.version}").contents()
            return Admitted(self.admit(KeptStore(self.store.url, documents), pointer))
        except UloraError:  # they are damaged; or keys have changed, and the store may have a new signature
            return None

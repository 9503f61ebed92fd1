"""The signatures of versions in the store, each an object of its own."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

from registry.errors import BadManifest, Conflict, ObjectNotFound
from registry.formats import canonical
from registry.store import layout
from registry.store.objects import ObjectStore
from registry.store.refusals import read_each
from registry.store.storage import list_folder
from registry.trust.statement import MAX_SIGNATURE

MAX_SIGNATURES = 64
"""Of one version: only the oldest are read, and no more are written."""
_MAX_LISTED = 10_000
"""The largest number of objects that are listed to find the oldest."""


class Signatures:
    """The signatures of a model's versions. Create-only, and limited in number: any writer may add invalid ones."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._model = model

    def of(self, version: str) -> list[bytes]:
        """The stored signatures of a version; objects whose bytes do not match their key, or that can't be read, are
        skipped: any writer may add such.

        Raises:
            StoreDenied: all are refused.
        """
        return [body for body in read_each(self._read, self._oldest(version)) if body is not None]

    def add(self, version: str, signature: bytes) -> str:
        """Store a signature and return its sha256.

        Raises:
            Conflict: the version has the maximum number of signatures.
        """
        self.check_room(version)
        digest = canonical.sha256(signature)
        self._store.create(layout.signature(self._model, version, digest), signature)
        return digest

    def check_room(self, version: str) -> None:
        """Check that one more signature would be read.

        Raises:
            Conflict: the version has the maximum number of signatures.
        """
        if len(self._oldest(version)) >= MAX_SIGNATURES:
            raise Conflict(
                f"{version} has {MAX_SIGNATURES} signatures, and more are not read",
                hint="with the rights of policies/gc.json, delete signatures of unknown keys below "
                f"{layout.signature(self._model, version)} in the bucket",
            )

    def _oldest(self, version: str) -> list[str]:
        """The keys that are read: the oldest by the server's clock, so that later objects can't hide a signature."""
        infos = islice(list_folder(self._store, layout.signature(self._model, version)), _MAX_LISTED)
        fitting = [(info.modified, info.key) for info in infos if info.modified and info.size <= MAX_SIGNATURE]
        return [key for _, key in sorted(fitting)[:MAX_SIGNATURES]]

    def _read(self, key: str) -> bytes | None:
        with suppress(ObjectNotFound, BadManifest):  # deleted or replaced meanwhile: skip it
            body = self._store.get(key, MAX_SIGNATURE).body
            if key.endswith(f"/{canonical.sha256(body)}.json"):
                return body
        return None

"""Stored documents on their way into an audit's archive: their exact bytes, on disk, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from registry.errors import BadInput, BadManifest, ObjectNotFound, StoreDenied, first_line
from registry.formats import canonical
from registry.parallel import in_parallel
from registry.store.refusals import MAY_NOT
from registry.store.storage import ReadableStorage

MAX_DOCUMENTS = 100_000
MAX_BYTES = 4 * 1024**3
"""Documents of one archive, and bytes of them, besides files of versions."""
_WORKERS, _BATCH = 8, 64
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@-]*(/[A-Za-z0-9_][A-Za-z0-9._+@-]*)*")
_OWN_NAME = re.compile(
    r"(?:blobs/sha256|models/[^/]+/(?:evidence|outcomes|approvals|ticks|verdicts|policies|decisions|signatures))"
    r"/(?:[^/]+/)?([0-9a-f]{64})(?:\.json|\.jsonl\.gz)?"
)
"""What is stored under its own digest; the same as in the script that verifies an archive."""
_JSON = re.compile(r"models/(?!.*/signatures/).*\.json")


@dataclass(frozen=True)
class KeptDocument:
    """A document's bytes in a file of the scratch folder."""

    place: Path
    sha256: str
    size: int


@dataclass
class AuditDocuments:
    """Reads documents, each once, and remembers which of them are for the archive.

    Attributes:
        missing: why something is not in the archive, by key. `explained` are those of them that are as they should be.
        damaged: what is wrong with something that was read, by key; `damage` is that of what is in it.
        refused: those that are missing because the store does not give them: they may be whole.
    """

    store: ReadableStorage
    folder: Path
    chosen: set[str] = field(default_factory=set)
    missing: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    explained: set[str] = field(default_factory=set)
    _kept: dict[str, KeptDocument] = field(default_factory=dict)
    _absent: dict[str, str] = field(default_factory=dict)
    _number: count[int] = field(default_factory=count)
    _size: int = 0

    def read(self, keys: Iterable[str]) -> None:
        """Read documents that will be asked for, several at a time.

        Raises:
            BadInput: they are more than one archive takes.
            StoreUnreachable: the store does not answer.
        """
        new = [key for key in dict.fromkeys(keys) if key not in self._kept and key not in self._absent]
        for start in range(0, len(new), _BATCH):  # so that a bound which is passed is passed by one batch at most
            batch = new[start : start + _BATCH]
            in_parallel(self._fetch, batch, _WORKERS)
            self._size += sum(self._kept[key].size for key in batch if key in self._kept)
            if len(self._kept) > MAX_DOCUMENTS or self._size > MAX_BYTES:
                raise BadInput(
                    f"these are more than {MAX_DOCUMENTS:,} documents, or {MAX_BYTES:,} bytes of them",
                    hint="audit one version, or a shorter time: --since, --until",
                )

    def choose(self, key: str, *, optional: bool = False) -> bool:
        """Put a document into the archive; False if it is not there, which is noted unless it is `optional`."""
        self.read([key])
        if key in self._absent:
            if not optional or key in self.refused:
                self.missing[key] = self._absent[key]
            return False
        self.chosen.add(key)
        return True

    def json(self, key: str) -> dict[str, Any]:
        """What a document says; nothing where it is not there, or is not a JSON object."""
        self.read([key])
        kept = self._kept.get(key)
        if kept is None:
            return {}
        try:
            return canonical.decode(kept.place.read_bytes(), key)
        except BadManifest as error:
            self.damaged[key] = first_line(error)
            return {}

    def kept(self, key: str) -> KeptDocument | None:
        """A document that was read; None if it could not be."""
        return self._kept.get(key)

    @property
    def damage(self) -> dict[str, str]:
        """What is wrong with something in the archive, by key."""
        return {key: why for key, why in sorted(self.damaged.items()) if key in self.chosen}

    def add(self, key: str, place: Path, sha256: str, size: int) -> None:
        """Put a file of a version, which was verified, into the archive."""
        self._kept[key] = KeptDocument(place, sha256, size)
        self.chosen.add(key)

    def _fetch(self, key: str) -> None:
        if not _SAFE.fullmatch(key):
            self._absent[key] = "it is not a key of ulora's"
            return
        try:
            body = self.store.get(key).body
        except ObjectNotFound:
            self._absent[key] = "it is not in the store"
            return
        except BadManifest as error:
            self._absent[key] = first_line(error)
            return
        except StoreDenied as error:
            self.refused.add(key)
            self._absent[key] = f"{MAY_NOT}: {first_line(error)}"
            return
        place = self.folder / str(next(self._number))
        place.write_bytes(body)
        digest = canonical.sha256(body)
        self._kept[key] = KeptDocument(place, digest, len(body))
        named = _OWN_NAME.fullmatch(key)
        if named and named[1] != digest:
            self.damaged[key] = f"it hashes to {digest}, which is not its name"
        elif _JSON.fullmatch(key) and not _is_canonical(body):
            self.damaged[key] = "it is not canonical JSON"


def _is_canonical(body: bytes) -> bool:
    try:
        return canonical.encode(canonical.decode(body, "it")) == body
    except (BadManifest, ValueError):
        return False


def in_archive(key: str) -> str:
    """The path of an object in an archive."""
    return f"store/{key}"

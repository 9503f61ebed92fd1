"""When this machine last read all bytes of a version: a small document in the cache folder for each."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from pydantic import AwareDatetime, Field

from registry.errors import BadManifest
from registry.formats import canonical
from registry.formats.cache_files import CacheFile
from registry.formats.document import Document, Sha256

Kept = TypeVar("Kept", bound=Document)


class LastRead(Document):
    """What a full read found. `when` is UTC, ISO 8601; `bad` are paths."""

    LIMIT: ClassVar[int] = 64 * 1024

    format: Literal[1]
    version: str = Field(max_length=120)
    manifest_sha256: Sha256
    when: AwareDatetime
    bad: tuple[str, ...] = Field(default=(), max_length=100)

    @property
    def age(self) -> timedelta:
        """How long ago it was; 0 if the clock was set back since."""
        return max(datetime.now(UTC) - self.when, timedelta(0))


def find_kept(kind: type[Kept], place: CacheFile) -> Kept | None:
    """A document that this machine keeps for itself; None if it has none, or can't read it."""
    try:
        return kind.parse(place.read(kind.LIMIT), str(place.path))
    except (OSError, BadManifest):
        return None


def keep(document: Document, place: CacheFile) -> None:
    """Keep a document on this machine. It does nothing where the place can't be written."""
    with suppress(OSError):
        place.write(document.to_bytes())


class LastReads:
    """The last full reads of the versions of one store."""

    def __init__(self, cache: Path, store_url: str) -> None:
        self._cache = cache
        self._folders = ("reads", canonical.digest([store_url])[:32])

    def find(self, manifest_sha256: str) -> LastRead | None:
        """The last full read of a version; None if this machine has not done one, or can't read the document."""
        return find_kept(LastRead, self._place(manifest_sha256))

    def note(self, version: str, manifest_sha256: str, bad: tuple[str, ...]) -> None:
        """Keep that all bytes were read just now. It does nothing where the cache can't be written."""
        read = LastRead(
            format=1, version=version, manifest_sha256=manifest_sha256, when=datetime.now(UTC), bad=bad[:100]
        )
        keep(read, self._place(manifest_sha256))

    def _place(self, manifest_sha256: str) -> CacheFile:
        return CacheFile(self._cache, (*self._folders, f"{manifest_sha256}.json"))

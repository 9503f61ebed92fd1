"""When this machine last tested that a store honours conditional writes: a small document in the cache folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import AwareDatetime

from registry.formats import canonical
from registry.formats.cache_files import CacheFile
from registry.formats.document import Document
from registry.integrity.lastread import find_kept, keep


class Probed(Document):
    """What a test of conditional writes found. `when` is UTC, ISO 8601."""

    LIMIT: ClassVar[int] = 4096

    format: Literal[1]
    when: AwareDatetime
    honoured: bool


class LastProbe:
    """The last test of one store by this machine."""

    def __init__(self, cache: Path, store_url: str, endpoint_url: str | None) -> None:
        name = f"{canonical.digest([store_url, endpoint_url or ''])[:32]}.json"
        self._place = CacheFile(cache, ("probes", name))

    def find(self) -> Probed | None:
        """The last test; None if this machine has done none, or can't read the document."""
        return find_kept(Probed, self._place)

    def note(self, *, honoured: bool) -> None:
        """Keep what was found just now. It does nothing where the cache can't be written."""
        keep(Probed(format=1, when=datetime.now(UTC), honoured=honoured), self._place)

"""The operations log: how commands of the command line ended, and how long they took, each in a small document.

It shows trends, such as how often restores fail. What a channel serves rests on the channel's own log alone, so a line
that could not be written here is only missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import ClassVar, Literal

from pydantic import Field

from registry.errors import BadManifest, ObjectNotFound
from registry.evidence.results import ModelName, UtcTime
from registry.formats.document import Document
from registry.parallel import in_parallel
from registry.store import layout
from registry.store.objects import ObjectStore

MOST = 2_000
"""Operations that are read, of the newest days."""


class Operation(Document):
    """One command that has ended.

    Attributes:
        command: its words, such as `canary start`.
        version, channel: what it was about, empty where it has none; several versions are separated by spaces.
        started: UTC, ISO 8601; by the clock of the machine that ran it.
        seconds: how long all of it took, with what it waited for.
        exit_code: 0 for done; see `registry.errors`.
        error: the class of the error, empty if there was none.
        who: who ran it; a claim, see `registry.machine.identity`.
    """

    LIMIT: ClassVar[int] = 16 * 1024

    format: Literal[1]
    model: ModelName
    command: str = Field(min_length=1, max_length=64)
    version: str = Field(default="", max_length=1000)
    channel: str = Field(default="", max_length=64)
    started: UtcTime
    seconds: float = Field(ge=0, le=1e9, allow_inf_nan=False)
    exit_code: int = Field(ge=0, le=255)
    error: str = Field(default="", max_length=64)
    who: str = Field(default="", max_length=500)

    @property
    def when(self) -> datetime:
        """When it started."""
        return datetime.fromisoformat(self.started)

    @property
    def key(self) -> str:
        """Where it is in the store."""
        return layout.operation(self.model, self.started[:10], self.sha256)


@dataclass(frozen=True)
class OperationsLog:
    """The operations on one model."""

    store: ObjectStore
    model: str

    def add(self, operation: Operation) -> None:
        """Keep an operation. Raises: Unreachable, StoreDenied: it is not kept."""
        self.store.create(operation.key, operation.to_bytes())

    def since(self, when: datetime | None = None) -> list[Operation]:
        """The operations that started since then, oldest first; without what can't be read, and what is beyond `MOST`.

        Raises:
            StoreDenied: they may not be read.
        """
        keys = list(islice(self._newest_first(when.date().isoformat() if when else ""), MOST))
        found = [one for one in in_parallel(self._read, keys) if one is not None]
        return sorted((one for one in found if when is None or one.when >= when), key=lambda one: one.when)

    def _newest_first(self, first: str) -> Iterator[str]:
        days = sorted(filter(layout.is_day, self.store.folders(layout.operations(self.model))), reverse=True)
        for day in days:
            if day >= first:
                yield from (info.key for info in self.store.list(layout.operation(self.model, day)))

    def _read(self, key: str) -> Operation | None:
        try:
            found = Operation.parse(self.store.get(key, Operation.LIMIT).body, key)
        except (BadManifest, ObjectNotFound):
            return None
        return found if found.key == key else None

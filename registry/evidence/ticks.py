"""Ticks: a person says that a line of a checklist is done for a version, where nothing can find that out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field

from registry.evidence.results import ModelName, UtcTime, VersionText
from registry.formats.document import Document, Sha256


class Tick(Document):
    """What a person says of a line, create-only. It counts for this content only, and until it is taken back.

    Attributes:
        line: the id of the checklist's line.
        who: the person; see `registry.machine.identity` for how far that is proven.
        when: UTC, ISO 8601.
        takes_back: digests of earlier ticks, which do not count any more; then this one is no tick itself.
    """

    LIMIT: ClassVar[int] = 64 * 1024

    format: Literal[1]
    model: ModelName
    version: VersionText
    content_sha256: Sha256
    channel: str = Field(max_length=64)
    line: str = Field(pattern=r"^[a-z0-9-]{1,64}$")
    who: str = Field(min_length=1, max_length=500)
    when: UtcTime
    reason: str = Field(default="", max_length=4096)
    takes_back: tuple[Sha256, ...] = Field(default=(), max_length=500)


def standing_ticks(ticks: Iterable[Tick], channel: str, content_sha256: str) -> dict[str, tuple[Tick, ...]]:
    """The ticks for this content in a channel that nobody took back, by line, oldest first."""
    fitting = [one for one in ticks if (one.channel, one.content_sha256) == (channel, content_sha256)]
    gone = {digest for one in fitting for digest in one.takes_back}
    found: dict[str, tuple[Tick, ...]] = {}
    for one in sorted(fitting, key=lambda one: (one.when, one.sha256)):
        if not one.takes_back and one.sha256 not in gone:
            found[one.line] = (*found.get(one.line, ()), one)
    return found

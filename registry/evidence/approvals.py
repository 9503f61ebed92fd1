"""Approvals: a person's yes to a version in a channel whose policy asks for it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field

from registry.evidence.results import ModelName, UtcTime, VersionText
from registry.formats.document import Document, Sha256


class Approval(Document):
    """A yes, create-only. It counts for this content only, whatever the version's name comes to mean.

    Attributes:
        who: the person; see `registry.machine.identity` for how far that is proven.
        when: UTC, ISO 8601.
    """

    LIMIT: ClassVar[int] = 64 * 1024

    format: Literal[1]
    model: ModelName
    version: VersionText
    content_sha256: Sha256
    channel: str = Field(max_length=64)
    who: str = Field(min_length=1, max_length=500)
    when: UtcTime
    reason: str = Field(default="", max_length=4096)


def approvers(approvals: Iterable[Approval], channel: str, content_sha256: str) -> tuple[str, ...]:
    """The different people who said yes to this content in a channel, each name on one line."""
    fitting = {one.who for one in approvals if (one.channel, one.content_sha256) == (channel, content_sha256)}
    found: dict[str, str] = {}
    for who in sorted(fitting):
        found.setdefault(person(who), " ".join(who.split()))
    return tuple(found.values())


def person(who: str) -> str:
    """A key for a person: equal for names that differ only in upper and lower case, spaces, or Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", who).casefold().split())

"""Promotions that people request in the MLflow UI, by setting the alias `request-staging` or `request-production`.

An alias has no author and no compare-and-set, so these steps make a request safe: a tag says that the request is
*taking*, with the channel's generation that was read before the alias was; then the alias is deleted; then the tag says
*taken*; then the version is promoted as exactly the next generation, or not at all. A reconciler that finds a request
`taken` without an answer, after a crash or beside another reconciler, reads the log to find what became of it, and
continues. It does not continue one that is only `taking`: the person who made the request may have deleted the alias.
So a request is answered once, and nothing that was withdrawn or rolled back since is promoted by it.

The answer is a tag of the version, one for each channel; the next answer overwrites it. Nothing is written to a version
that was not created by ulora from this store: its alias is deleted, and the answer is a tag of the registered model.

This module reads requests; `request_answers` writes, `request_decisions` decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry.catalog import tags
from registry.catalog.client import Catalog
from registry.catalog.entries import CatalogVersion
from registry.catalog.version_id import VersionId
from registry.names import CHANNELS
from registry.versions.bindings import Binding

ALIAS = "request-"
"""With a channel's name: the alias that makes a request."""
_CLAIM = re.compile(r"(taking|taken) \S{1,40} at generation (0|[1-9]\d{0,11})\b")


@dataclass(frozen=True)
class Claim:
    """The tag of a request that a reconciler has begun to answer.

    Attributes:
        generation: the channel's, read while the alias was there.
        is_sure: whether the reconciler that wrote it had deleted the alias itself.
        text: of the tag.
    """

    generation: int
    is_sure: bool
    text: str

    @classmethod
    def parse(cls, text: str) -> Claim | None:
        """The claim in a tag, None if the tag is not a claim."""
        match = _CLAIM.match(text)
        return cls(int(match[2]), match[1] == "taken", text) if match else None


@dataclass(frozen=True)
class Request:
    """A request that a channel serve a version.

    Attributes:
        number: the version's number in MLflow.
        tagged: the version by its tags; None if it was not created by ulora, or is of another store.
        stands: whether the alias is still there.
        claim: of a reconciler that began to answer it and did not finish.
    """

    channel: str
    number: int
    tagged: CatalogVersion | None
    stands: bool = True
    claim: Claim | None = None

    @property
    def version(self) -> str | None:
        """The version's name, None if it can't be promoted from this store."""
        return self.tagged.version if self.tagged else None

    def is_for(self, binding: Binding) -> bool:
        """Whether the version that is asked for is the one that the store has under its name."""
        if self.tagged is None:
            return False
        same_content = self.tagged.content_sha256 == binding.content_sha256
        return same_content and self.tagged.id == VersionId.of(binding)

    def __str__(self) -> str:
        return f"{self.version or f'#{self.number}'} for {self.channel}"

    @property
    def alias(self) -> str:
        """The alias that makes the request."""
        return ALIAS + self.channel

    @property
    def tag(self) -> str:
        """The name of the tag that holds the claim or the answer."""
        return tags.REQUEST + self.channel


def pending(catalog: Catalog, model: str) -> list[Request]:
    """The requests whose alias is there, then those that were claimed and not answered.

    Empty for a model that shows the channels of another store, whose reconciler answers.
    """
    with catalog.connection.open() as client:
        entries = catalog.entries(client)
        registered = entries.model(model)
        if registered is None or registered.store not in (catalog.store, ""):
            return []
        found = _Requests(catalog.store, registered.aliases, entries.all(model))
    return [*found.standing(), *found.unanswered()]


@dataclass(frozen=True)
class _Requests:
    """The requests among the versions of a model that shows the channels of a store."""

    store: str
    aliases: Mapping[str, int]
    versions: Sequence[CatalogVersion]

    def standing(self) -> list[Request]:
        by_number = {version.number: version for version in self.versions}
        asked = [(channel, by_number.get(self.aliases.get(ALIAS + channel, 0))) for channel in CHANNELS]
        return [self._request(channel, version, stands=True) for channel, version in asked if version]

    def unanswered(self) -> list[Request]:
        found = [
            self._request(channel, version, stands=False)
            for channel in CHANNELS
            for version in self.versions
            if self.aliases.get(ALIAS + channel) != version.number
        ]
        return [request for request in found if request.version and request.claim]

    def _request(self, channel: str, version: CatalogVersion, *, stands: bool) -> Request:
        claim = Claim.parse(version.tags.get(tags.REQUEST + channel, ""))
        may_be_ours = version.store in (self.store, "")
        return Request(channel, version.number, version if may_be_ours and version.id else None, stands, claim)

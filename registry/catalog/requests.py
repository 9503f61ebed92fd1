"""What people request in the MLflow UI by setting the alias `request-staging`, `request-production`, or
`request-rollback` on a version.

An alias has no author and no compare-and-set, so these steps make a request safe: a tag says that the request is
*taking*, with the channel's generation that was read before the alias was; then the alias is deleted; then the tag says
*taken*; then the channel is moved by exactly the next generation, or not at all. A reconciler that finds a request
`taken` without an answer, after a crash or beside another reconciler, reads the log to find what became of it, and
continues. It does not continue one that is only `taking`: the person who made the request may have deleted the alias.
So a request is answered once, and nothing that was withdrawn or rolled back since is promoted by it.

A refusal is a notice at the top of the version's page, and a short tag; the next answer to the same request replaces
it. Then the tag of the claim goes. Nothing is written to a version that was not created by ulora from this store: its
alias is deleted, and the answer is a tag of the registered model.

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
"""With what is asked for: the alias that makes a request."""
ROLLBACK = "rollback"
ASKS = (*CHANNELS, ROLLBACK)
"""What can be asked for: that a channel serves a version, or that production is rolled back."""
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
    """A request that a channel serve a version, or that production be rolled back from it or to it.

    Attributes:
        asks: one of `ASKS`.
        number: the version's number in MLflow.
        tagged: the version; None if it was not created by ulora, or is of another store.
        stands: whether the alias is still there.
        claim: of a reconciler that began to answer it and did not finish.
    """

    asks: str
    number: int
    tagged: CatalogVersion | None
    stands: bool = True
    claim: Claim | None = None

    @property
    def channel(self) -> str:
        """The channel that would be moved."""
        return "production" if self.asks == ROLLBACK else self.asks

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
        return f"{self.version or f'#{self.number}'} for {self.asks}"

    @property
    def alias(self) -> str:
        """The alias that makes the request."""
        return ALIAS + self.asks

    @property
    def tag(self) -> str:
        """The name of the tag that holds the claim."""
        return tags.REQUEST + self.asks


def pending(catalog: Catalog, model: str) -> list[Request]:
    """The requests whose alias is there, then those that were claimed and not answered.

    Empty for a model that shows the channels of another store, whose reconciler answers.
    """
    with catalog.connection.open() as client:
        entries = catalog.entries(client)
        registered = entries.model(model)
        if registered is None or not catalog.may_show(registered):
            return []
        asked = {registered.aliases[ALIAS + asks] for asks in ASKS if ALIAS + asks in registered.aliases}
        # By queries of their own: this is asked in every round, and a model may have thousands of versions.
        found = [entries.numbered(model, number) for number in asked]
        for asks in ASKS:
            found += entries.tagged(model, tags.REQUEST + asks, tags.CLAIMED)
        versions = {each.number: each for each in found}
        requests = _Requests(catalog.store, registered.aliases, tuple(versions[each] for each in sorted(versions)))
    return [*requests.standing(), *requests.unanswered()]


@dataclass(frozen=True)
class _Requests:
    """The requests among the versions of a model that shows the channels of a store."""

    store: str
    aliases: Mapping[str, int]
    versions: Sequence[CatalogVersion]

    def standing(self) -> list[Request]:
        by_number = {version.number: version for version in self.versions}
        asked = [(asks, by_number.get(self.aliases.get(ALIAS + asks, 0))) for asks in ASKS]
        return [self._request(asks, version, stands=True) for asks, version in asked if version]

    def unanswered(self) -> list[Request]:
        found = [
            self._request(asks, version, stands=False)
            for asks in ASKS
            for version in self.versions
            if self.aliases.get(ALIAS + asks) != version.number
        ]
        return [request for request in found if request.version and request.claim]

    def _request(self, asks: str, version: CatalogVersion, *, stands: bool) -> Request:
        claim = Claim.parse(version.tags.get(tags.REQUEST + asks, ""))
        may_be_ours = version.store in (self.store, "")
        return Request(asks, version.number, version if may_be_ours and version.id else None, stands, claim)

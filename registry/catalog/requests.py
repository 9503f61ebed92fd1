"""Promotions that people request in the MLflow UI, by setting the alias `request-staging` or `request-production`.

An alias has no author and no compare-and-set, so these steps make a request safe: a tag says that the request is
*taking*, with the channel's generation that was read before the alias was; then the alias is deleted; then the tag says
*taken*; then the version is promoted as exactly the next generation, or not at all. A reconciler that finds a request
`taken` without an answer, after a crash or beside another reconciler, reads the log to find what became of it, and
continues. It does not continue one that is only `taking`: the person who made the request may have deleted the alias.
So a request is answered once, and nothing that was withdrawn or rolled back since is promoted by it.

The answer is a tag of the version, one for each channel; the next answer overwrites it. Nothing is written to a version
that was not created by ulora: its alias is deleted, and the answer is a tag of the registered model.

This module reads requests; `request_answers` writes, `request_decisions` decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.catalog import tags
from registry.catalog.client import Catalog
from registry.catalog.entries import CatalogVersion
from registry.names import CHANNELS

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
        version: its name, None if it was not created by ulora; `content_sha256` is its content by its tag.
        stands: whether the alias is still there.
        claim: of a reconciler that began to answer it and did not finish.
    """

    channel: str
    number: int
    version: str | None
    content_sha256: str | None = None
    stands: bool = True
    claim: Claim | None = None

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
    """The requests whose alias is there, then those that were claimed and not answered."""
    with catalog.connection.open() as client:
        aliases = aliases_of(client, model)
        versions = catalog.versions(model)
    return [*_standing(versions, aliases), *_unanswered(versions, aliases)]


def aliases_of(client: MlflowClient, model: str) -> dict[str, int]:
    """The version number of each alias of a model; empty if there is no such model."""
    from mlflow.exceptions import MlflowException

    try:
        return {alias: int(number) for alias, number in client.get_registered_model(model).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def _standing(versions: Sequence[CatalogVersion], aliases: Mapping[str, int]) -> list[Request]:
    by_number = {version.number: version for version in versions}
    asked = [(channel, by_number.get(aliases.get(ALIAS + channel, 0))) for channel in CHANNELS]
    return [_request(channel, version, stands=True) for channel, version in asked if version]


def _unanswered(versions: Sequence[CatalogVersion], aliases: Mapping[str, int]) -> list[Request]:
    return [
        _request(channel, version, stands=False)
        for channel in CHANNELS
        for version in versions
        if version.version and _claim(channel, version) and aliases.get(ALIAS + channel) != version.number
    ]


def _request(channel: str, version: CatalogVersion, *, stands: bool) -> Request:
    return Request(channel, version.number, version.version, version.content_sha256, stands, _claim(channel, version))


def _claim(channel: str, version: CatalogVersion) -> Claim | None:
    return Claim.parse(version.tags.get(tags.REQUEST + channel, ""))

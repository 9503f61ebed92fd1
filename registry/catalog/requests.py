"""Promotions that people ask for in the MLflow UI, by setting the alias `request-staging` or `request-production`.

An alias has no author and no compare-and-set, so the log makes a request safe. A tag says that it is being taken, and
which generation of the channel was seen before the alias was; then the alias is removed; then the tag says that it is
*taken*, and it is promoted as the very next generation or not at all. Whoever finds a request taken but not answered,
after a crash or beside another reconciler, reads in the log what became of it, and goes on. With one that was only
being taken nobody goes on: the alias may have been removed by the person who had asked. So a request is answered once,
and nothing that was taken back or rolled back since comes back.

The answer is a tag of the version, one for each channel, and the next answer overwrites it. On a version that was not
registered by this package nothing is written: the alias is removed, and the answer is a tag of the registered model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from registry.catalog.log import Catalog, CatalogVersion
from registry.catalog.mirror import HINT_TAG
from registry.errors import CatalogRefused, Unreachable
from registry.machine import clock
from registry.names import CHANNELS

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALIAS = "request-"
TAG = "ulora.request."
_CLAIM = re.compile(r"(taking|taken) \S{1,40} at generation (0|[1-9]\d{0,11})\b")
_MAX_ANSWER = 2000


@dataclass(frozen=True)
class Claim:
    """What the tag of a request says before it is answered.

    Attributes:
        generation: of the channel, seen while the alias was there.
        is_sure: whether the reconciler that wrote it had removed the alias itself.
        text: of the tag.
    """

    generation: int
    is_sure: bool
    text: str

    @classmethod
    def parse(cls, text: str) -> Claim | None:
        """The claim that a tag makes, None where it makes none."""
        match = _CLAIM.match(text)
        return cls(int(match[2]), match[1] == "taken", text) if match else None


@dataclass(frozen=True)
class Request:
    """A wish that a channel serve a version.

    Attributes:
        number: the version's number in MLflow.
        version: its name, None for one that others registered; `content_sha256` what it says it holds.
        stands: whether the alias is still there.
        claim: of who took it, or began to, and did not answer it.
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
        """The alias that asks."""
        return ALIAS + self.channel

    @property
    def tag(self) -> str:
        """The tag that answers."""
        return TAG + self.channel


@dataclass(frozen=True)
class Answers:
    """What became of requests, in words, and of those that could not be answered, why not."""

    told: tuple[str, ...]
    left: tuple[str, ...] = ()


class Decider(Protocol):
    """Who decides on requests. `who` is shown while one is decided."""

    @property
    def who(self) -> str: ...

    def generation(self, channel: str) -> int:
        """The channel's newest generation, 0 while it is empty."""

    def decide(self, request: Request, taken: int) -> str:
        """Promote as the generation after `taken`, or refuse; or what the log says that became of it meanwhile.

        Returns words that begin with `promoted` or `refused`.

        Raises:
            Unreachable: it can't be decided now, and stays taken.
        """

    def recall(self, request: Request, taken: int) -> str:
        """The same of one that may have been taken back since: it is not promoted any more."""


def pending(catalog: Catalog, model: str) -> list[Request]:
    """The requests that stand, then those that were taken and not answered."""
    with catalog.connection.open() as client:
        aliases = _aliases(client, model)
        versions = catalog.versions(model)
    return [*_standing(versions, aliases), *_unanswered(versions, aliases)]


def answer_all(catalog: Catalog, model: str, desk: Decider) -> Answers:
    """Take, decide and answer every request. One that can't be answered keeps no other from it.

    Raises:
        CatalogUnreachable: what was taken is answered the next time.
        Unreachable: by the desk; the same.
    """
    told, left = [], []
    for request in pending(catalog, model):
        try:
            if answer := _answer(catalog, model, request, desk):
                told.append(f"{request}: {answer}")
        except Exception as error:
            if isinstance(error, Unreachable) and not isinstance(error, CatalogRefused):
                raise
            left.append(f"the request of {request}: {type(error).__name__}: {error}")
    return Answers(tuple(told), tuple(left))


def _answer(catalog: Catalog, model: str, request: Request, desk: Decider) -> str:
    """Bring a request to its end; returns the answer, empty where it was taken back or is in other hands."""
    if request.version is None:
        return _turn_away(catalog, model, request)
    claim = _take(catalog, model, request, desk) if request.stands else request.claim
    if claim is None:
        return ""
    # Outside of any conversation with MLflow: promoting has one of its own.
    words = desk.decide(request, claim.generation) if claim.is_sure else desk.recall(request, claim.generation)
    verb, _, rest = words.partition(" ")
    answer = f"{verb} {clock.timestamp('seconds')}: {rest}"[:_MAX_ANSWER]
    with catalog.connection.open() as client:
        if not claim.is_sure and _said(client, model, request) != claim.text:
            return ""  # who was taking it has gone on
        client.set_model_version_tag(model, str(request.number), request.tag, answer)
        client.delete_model_version_tag(model, str(request.number), HINT_TAG)
    return answer


def _take(catalog: Catalog, model: str, request: Request, desk: Decider) -> Claim | None:
    """Claim a request and remove its alias; None, and it is not promoted, where somebody else did anything with it.

    A person's hand between the last look at the alias and its removal is not seen: MLflow has no condition for that.
    """
    # Read before the alias: whoever had the alias removed since commits a later generation, and then we do not.
    generation, number = desk.generation(request.channel), str(request.number)
    claim = f"{clock.timestamp('seconds')} at generation {generation} by {desk.who}"[: _MAX_ANSWER // 2]
    with catalog.connection.open() as client:
        if _aliases(client, model).get(request.alias) != request.number:
            return None
        client.set_model_version_tag(model, number, request.tag, f"taking {claim}")
        if _aliases(client, model).get(request.alias) != request.number:
            return None
        client.delete_registered_model_alias(model, request.alias)
        if Claim.parse(_said(client, model, request)) is None:
            return None  # another one found it interrupted, and said so
        client.set_model_version_tag(model, number, request.tag, f"taken {claim}")
    return Claim(generation, is_sure=True, text=f"taken {claim}")


def _said(client: MlflowClient, model: str, request: Request) -> str:
    return str(client.get_model_version(model, str(request.number)).tags.get(request.tag, ""))


def _turn_away(catalog: Catalog, model: str, request: Request) -> str:
    """A version that others registered can't be served, and is not written to."""
    answer = (
        f"refused {clock.timestamp('seconds')}: #{request.number} was not registered by ulora; "
        f"`ulora create NAME --from models:/{model}/{request.number}` makes it a version that can be asked for"
    )
    with catalog.connection.open() as client:
        if _aliases(client, model).get(request.alias) != request.number:
            return ""
        client.delete_registered_model_alias(model, request.alias)
        client.set_registered_model_tag(model, request.tag, answer)
    return answer


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
    return Claim.parse(version.tags.get(TAG + channel, ""))


def _aliases(client: MlflowClient, model: str) -> dict[str, int]:
    from mlflow.exceptions import MlflowException

    try:
        return {alias: int(number) for alias, number in client.get_registered_model(model).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise

"""Claim, decide and answer what people request in the MLflow UI. `requests` has the steps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from registry.catalog import tags
from registry.catalog.client import Catalog
from registry.catalog.entries import set_tags
from registry.catalog.page_writer import note
from registry.catalog.request_decisions import RequestDecider
from registry.catalog.requests import Claim, Request, pending
from registry.catalog.version_page import done, refusal
from registry.errors import CatalogRefused, Unreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MAX_ANSWER = 2000


@dataclass(frozen=True)
class AnsweredRequests:
    """The answers to requests in words, and why other requests could not be answered."""

    answers: tuple[str, ...]
    failures: tuple[str, ...] = ()


def answer_all(catalog: Catalog, model: str, decider: RequestDecider) -> AnsweredRequests:
    """Claim, decide and answer every request. One that can't be answered does not stop the others.

    Raises:
        Unreachable: MLflow or the store does not answer; claimed requests are answered the next time.
    """
    answers, failures = [], []
    for request in pending(catalog, model):
        try:
            if answer := answer_one(catalog, model, request, decider):
                answers.append(f"{request}: {answer}")
        except Exception as error:
            if isinstance(error, Unreachable) and not isinstance(error, CatalogRefused):
                raise
            failures.append(f"the request of {request}: {type(error).__name__}: {error}")
    return AnsweredRequests(tuple(answers), tuple(failures))


def answer_one(catalog: Catalog, model: str, request: Request, decider: RequestDecider) -> str:
    """Answer one request; returns the answer, empty if it was withdrawn or another reconciler handles it.

    Raises:
        Unreachable: see `answer_all`.
    """
    if request.version is None:
        return _refuse_unmanaged(catalog, model, request)
    claim = _claim(catalog, model, request, decider) if request.stands else request.claim
    if claim is None:
        return ""
    # Outside of any conversation with MLflow: promoting has its own.
    decide = decider.decide if claim.is_sure else decider.look_up
    verb, _, rest = decide(request, claim.generation).partition(" ")
    answer = f"{verb} {_now()}: {rest}"[:_MAX_ANSWER]
    with catalog.connection.open() as client:
        if not claim.is_sure and _tag(client, model, request) != claim.text:
            return ""  # the reconciler that had claimed it continued
        _show_answer(catalog, client, model, request, answer)
    return answer


def _show_answer(catalog: Catalog, client: MlflowClient, model: str, request: Request, answer: str) -> None:
    """Show an answer where people look: at the top of the version's page. Then the claim ends."""
    refused = answer if answer.startswith("refused") else ""
    found = catalog.entries(client).numbered(model, request.number)
    notices = {refusal(request.asks): refused.removeprefix("refused "), done(request.asks): "" if refused else answer}
    note(client, model, found, notices)
    if refused or found.tags.get(tags.REQUESTED, "").partition(" ")[0] == request.asks:
        set_tags(client, model, found, {tags.REQUESTED: f"{request.asks} refused" if refused else ""})
    client.delete_model_version_tag(model, str(request.number), request.tag)


def _claim(catalog: Catalog, model: str, request: Request, decider: RequestDecider) -> Claim | None:
    """Claim a request and delete its alias; None if anybody else changed it meanwhile, and then it is not promoted.

    A change by a person between the last read of the alias and its deletion is not seen: MLflow has no conditional
    delete.
    """
    # Read before the alias: whoever had the alias deleted since commits a later generation, and then this one fails.
    generation, number = decider.generation(request.channel), str(request.number)
    claim = f"{_now()} at generation {generation} by {decider.who}"[: _MAX_ANSWER // 2]
    with catalog.connection.open() as client:
        if not _stands(catalog, client, model, request):
            return None
        client.set_model_version_tag(model, number, request.tag, f"taking {claim}")
        if not _stands(catalog, client, model, request):
            return None
        client.delete_registered_model_alias(model, request.alias)
        if Claim.parse(_tag(client, model, request)) is None:
            return None  # another reconciler found it interrupted, and answered that
        client.set_model_version_tag(model, number, request.tag, f"taken {claim}")
    return Claim(generation, is_sure=True, text=f"taken {claim}")


def _stands(catalog: Catalog, client: MlflowClient, model: str, request: Request) -> bool:
    """Whether the alias is on the request's version now."""
    registered = catalog.entries(client).model(model)
    return registered is not None and registered.aliases.get(request.alias) == request.number


def _tag(client: MlflowClient, model: str, request: Request) -> str:
    return str(client.get_model_version(model, str(request.number)).tags.get(request.tag, ""))


def _refuse_unmanaged(catalog: Catalog, model: str, request: Request) -> str:
    """Refuse a request for a version that is not of this store. Nothing is written to the version."""
    answer = (
        f"refused {_now()}: #{request.number} was not created by ulora in the store {catalog.store}; "
        f"`ulora create NAME --from models:/{model}/{request.number}` makes a version of it that can be requested"
    )
    with catalog.connection.open() as client:
        if not _stands(catalog, client, model, request):
            return ""
        client.delete_registered_model_alias(model, request.alias)
        client.set_registered_model_tag(model, request.tag, answer)
    return answer


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""Ask the version that was chosen for a request about its images; what every endpoint that predicts goes through."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from starlette.requests import Request

from registry.errors import BadImage, Overloaded, UloraError
from registry.serving.follow import Live
from registry.serving.http.clients import answers_for, deadline_in
from registry.serving.http.response_cache import AnswerKey, ResponseCache
from registry.serving.http.responses import Refused, as_refused
from registry.serving.loaders import Prediction
from registry.serving.routing import Route


@dataclass(frozen=True)
class AskedImage:
    """An image, or why there is none."""

    image: bytes | UloraError
    target: str | None = None


@dataclass(frozen=True)
class AskedImages:
    """Images that wait for their answers by one version. It holds no image any more."""

    route: Route
    deadline: float
    futures: list[Future[Prediction]]
    questions: list[AnswerKey | None]

    async def answers(self, request: Request) -> list[Prediction | BaseException]:
        """For each image the answer, or its error.

        Raises:
            BadInput: the client went away.
        """
        answered = await answers_for(request, self.futures, self.deadline)
        cache: ResponseCache = request.app.state.cache
        for question, one in zip(self.questions, answered, strict=True):
            if question and not isinstance(one, BaseException):
                cache.put(question, one, request.app.state.live.resident_digests())
        return answered


def check_admission(request: Request) -> float:
    """The deadline of a request, in seconds. To be called before its body is read.

    Raises:
        BadInput: it asks for an invalid one.
        Overloaded: not even one image can be answered by then.
        ReplicaClosed: the replica is closed.
    """
    live: Live = request.app.state.live
    deadline = deadline_in(request.scope["headers"]) or live.deadline
    live.scheduler.check_admission(deadline)
    return deadline


def choose(request: Request, key: str | None) -> Route:
    """The version that answers a request. It is read once, so that exactly one version answers all of its images.

    Raises:
        ReplicaClosed: the replica is closed.
    """
    route: Route = request.app.state.live.serving.choose(key)
    request.state.route = route  # what an error is answered with
    return route


def ask(request: Request, route: Route, images: Sequence[AskedImage], deadline: float) -> AskedImages:
    """Let images wait for their answers. One that is not admitted costs no other its answer.

    Raises:
        ReplicaClosed: the replica was closed.
    """
    cache: ResponseCache = request.app.state.cache
    futures: list[Future[Prediction]] = []
    questions: list[AnswerKey | None] = []
    try:
        for each in images:
            question = cache.question(each.image, each.target, route) if isinstance(each.image, bytes) else None
            known = cache.get(question) if question else None
            futures.append(_submit(request, route, each, deadline, known))
            questions.append(None if known else question)
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return AskedImages(route, deadline, futures, questions)


def told(error: BaseException) -> Exception:
    """An image's error as an exception of the request. What nobody foresaw, a flavor's own for example, is logged with
    the request by what answers it."""
    return error if isinstance(error, Exception) else as_refused(error)


def refuse_corrupt(answered: Prediction | BaseException) -> Prediction:
    """The prediction, if there is one.

    Raises:
        Refused: the bytes are not an image.
        UloraError: the error in its place.
    """
    if isinstance(answered, BaseException):
        raise told(answered)
    if answered.outcome == "corrupt_image":
        detail = str(answered.to_dict().get("detail") or "these bytes are not an image")
        raise Refused(400, BadImage.__name__, detail, "send a complete image file, of a format that this version reads")
    return answered


def _submit(
    request: Request, route: Route, asked: AskedImage, deadline: float, known: Prediction | None
) -> Future[Prediction]:
    live: Live = request.app.state.live
    settled: Future[Prediction] = Future()
    if known is not None:
        settled.set_result(known)
        return settled
    if isinstance(asked.image, UloraError):
        settled.set_exception(asked.image)
        return settled
    try:
        return live.scheduler.submit(route.loaded, asked.image, asked.target, deadline)
    except Overloaded as error:
        settled.set_exception(error)
        return settled

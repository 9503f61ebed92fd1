"""Ask the version that was chosen for a request about its images; what every endpoint that predicts goes through."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from starlette.requests import Request

from registry.errors import BadImage, Overloaded, UloraError
from registry.serving.admitted_row import AdmittedRow
from registry.serving.follow import Live
from registry.serving.http.clients import answers_for, deadline_in
from registry.serving.http.forcing import forced_route
from registry.serving.http.receipts import FIELD, Receipts
from registry.serving.http.response_cache import AnswerKey, ResponseCache
from registry.serving.http.responses import Refused, as_refused
from registry.serving.loaders import Prediction
from registry.serving.routing import Route, Serving


@dataclass(frozen=True)
class AskedImage:
    """An image, or why there is none."""

    image: bytes | UloraError
    target: str | None = None


@dataclass(frozen=True)
class AskedImages:
    """Images that wait for their answers by one version. It holds no image any more.

    Attributes:
        rows: None where nothing has to be computed.
    """

    route: Route
    deadline: float
    futures: list[Future[Prediction]]
    rows: list[AdmittedRow | None]
    questions: list[AnswerKey | None]
    receipts: Receipts | None

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

    def receipts_of(self, answered: Sequence[Prediction | BaseException]) -> list[dict[str, str]]:
        """The field of each answer that has its receipt, where this replica issues any."""
        found: list[dict[str, str]] = []
        for row, one in zip(self.rows, answered, strict=True):
            text = ""
            if self.receipts and not isinstance(one, BaseException):
                text = self.receipts.of(self.route, one, row.shadow_outcome if row else None)
            found.append({FIELD: text} if text else {})
        return found


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
        BadInput, Refused: see `forced_route`.
    """
    serving: Serving = request.app.state.live.serving
    route = forced_route(request, serving) or serving.choose(key, request.state.names.request_id)
    request.state.route = route  # what an error is answered with
    return route


def ask(request: Request, route: Route, images: Sequence[AskedImage], deadline: float) -> AskedImages:
    """Let images wait for their answers. One that is not admitted costs no other its answer.

    Raises:
        ReplicaClosed: the replica was closed.
    """
    cache: ResponseCache = request.app.state.cache
    asked = AskedImages(route, deadline, [], [], [], request.app.state.receipts)
    try:
        for each in images:
            # The canary of a shadow trial has to see what stable computes.
            may_be_known = isinstance(each.image, bytes) and route.shadow is None
            question = cache.question(each.image, each.target, route) if may_be_known else None  # type: ignore[arg-type]
            known = cache.get(question) if question else None
            row = None if known else _admit(request, route, each, deadline)
            asked.rows.append(row if isinstance(row, AdmittedRow) else None)
            asked.futures.append(row.future if isinstance(row, AdmittedRow) else _settled(known or row))
            asked.questions.append(None if known else question)
            if known:
                request.app.state.live.observing.counts.answered_again(route, known)
    except BaseException:
        for future in asked.futures:
            future.cancel()
        raise
    return asked


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


def _admit(request: Request, route: Route, asked: AskedImage, deadline: float) -> AdmittedRow | UloraError:
    live: Live = request.app.state.live
    if isinstance(asked.image, UloraError):
        return asked.image
    try:
        return live.scheduler.submit(route, asked.image, asked.target, deadline)
    except Overloaded as error:
        return error


def _settled(outcome: Prediction | UloraError | None) -> Future[Prediction]:
    settled: Future[Prediction] = Future()
    if isinstance(outcome, UloraError):
        settled.set_exception(outcome)
    elif outcome is not None:
        settled.set_result(outcome)
    return settled

"""The answers of a replica: JSON that names the version, and errors as `{"error", "message", "hint", "version"}`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from registry.errors import BadInput, Expired, Overloaded, ReplicaClosed, UloraError
from registry.serving.follow import Live
from registry.serving.http.failures import log_failure
from registry.serving.http.rights import path_of
from registry.serving.routing import Route

VERSION_HEADER, ARM_HEADER = "X-Ulora-Version", "X-Ulora-Arm"
Routes = Mapping[tuple[str, str], Callable[[Request], Awaitable[Response]]]
"""(method, path) -> what answers it."""
_STATUS: dict[type[UloraError], int] = {BadInput: 400, Overloaded: 429, ReplicaClosed: 503, Expired: 504}


class Refused(Exception):
    """A request that is answered with this HTTP status and error."""

    def __init__(
        self, status: int, error: str, message: str, hint: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.error, self.hint, self.headers = status, error, hint, dict(headers or {})

    def document(self) -> dict[str, str]:
        """The error as JSON."""
        return {"error": self.error, "message": str(self), "hint": self.hint}


def answer(status: int, document: Mapping[str, Any], version: str | None, arm: str = "stable") -> JSONResponse:
    """A document as the answer of a version."""
    return JSONResponse({**document, "version": version}, status, headers_of(version, arm))


def version_of(live: Live) -> str | None:
    """The version that answers, or did at the end; None before the first."""
    try:
        return live.version
    except ReplicaClosed:
        return live.health().version


def answer_of(route: Route, document: Mapping[str, Any]) -> JSONResponse:
    """A document as the answer of the version that was chosen for a request."""
    chosen = {"manifest_sha256": route.manifest_sha256, "arm": route.arm, "sticky": route.sticky}
    return answer(200, {**document, **chosen}, route.version, route.arm)


def description_of(route: Route, document: Mapping[str, Any]) -> JSONResponse:
    """A document about a version."""
    return answer(200, {**document, "manifest_sha256": route.manifest_sha256}, route.version, route.arm)


def headers_of(version: str | None, arm: str = "stable") -> dict[str, str]:
    """The headers that name the version of an answer, if one answers."""
    return {VERSION_HEADER: version, ARM_HEADER: arm} if version else {}


async def answer_error(request: Request, error: Exception) -> Response:
    """The answer to a request that failed."""
    refused = as_refused(error)
    if refused.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        log_failure(request, error)
    route: Route | None = getattr(request.state, "route", None)
    version, arm = (route.version, route.arm) if route else (version_of(request.app.state.live), "stable")
    document = error_document(refused, path_of(request.scope), version)
    return JSONResponse(document, refused.status, {**headers_of(version, arm), **refused.headers})


def error_document(refused: Refused, path: str, version: str | None) -> dict[str, str | None]:
    """What a request with this path is told of its error."""
    if is_open_inference(path):
        return {"error": f"{refused}; {refused.hint}" if refused.hint else str(refused)}
    return {**refused.document(), "version": version}


def is_open_inference(path: str) -> bool:
    """Whether a path belongs to the Open Inference Protocol, whose errors are `{"error": text}`."""
    return path == "/v2" or path.startswith("/v2/")


def as_refused(error: BaseException) -> Refused:
    """An error as it is told to a client."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, HTTPException):
        return Refused(error.status_code, "HTTPError", str(error.detail), "see /docs", error.headers)  # Allow, of a 405
    if isinstance(error, UloraError):
        status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Overloaded) else {}
        return Refused(status, type(error).__name__, str(error), error.hint, headers)
    return Refused(500, "InternalError", f"{type(error).__name__} while answering", "see the server's log")

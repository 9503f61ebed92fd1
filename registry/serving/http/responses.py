"""The answers of a replica: JSON that names the version, and errors as `{"error", "message", "hint", "version"}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from registry.errors import BadInput, Expired, Overloaded, ReplicaClosed, UloraError

VERSION_HEADER = "X-Ulora-Version"
_STATUS: dict[type[UloraError], int] = {BadInput: 400, Overloaded: 429, ReplicaClosed: 503, Expired: 504}


class Refused(Exception):
    """A request that is answered with this HTTP status and error."""

    def __init__(self, status: int, error: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.error, self.hint = status, error, hint


def answer(status: int, document: Mapping[str, Any], version: str | None) -> JSONResponse:
    """A document as the answer of a version."""
    headers = {VERSION_HEADER: version} if version else {}
    return JSONResponse({**document, "version": version}, status, headers)


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that failed."""
    refused = _as_refused(error)
    document = {"error": refused.error, "message": str(refused), "hint": refused.hint}
    response = answer(refused.status, document, request.app.state.live.health().version)
    if isinstance(error, Overloaded):
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _as_refused(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, HTTPException):
        return Refused(error.status_code, "HTTPError", str(error.detail), "see /docs")
    if isinstance(error, UloraError):
        status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
        return Refused(status, type(error).__name__, str(error), error.hint)
    return Refused(500, "InternalError", f"{type(error).__name__} while answering", "see the server's log")

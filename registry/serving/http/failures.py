"""Requests that fail through no fault of the client's: one line in the log, with the traceback, and its name."""

from __future__ import annotations

import logging

from starlette.requests import Request

_MAX_PATH = 200
_log = logging.getLogger(__name__)


def log_failure(request: Request, error: BaseException) -> None:
    """Log the error of a request that is answered with 500."""
    names = request.scope.get("state", {}).get("names")
    request_id, trace_id = (names.request_id, names.trace_id) if names else ("", "")
    _log.error(
        "%s %s failed, request %s: %s", request.method, request.url.path[:_MAX_PATH], request_id, type(error).__name__,
        exc_info=error,
        extra={"facts": {"event": "request failed", "request_id": request_id, "trace_id": trace_id}},
    )  # fmt: skip

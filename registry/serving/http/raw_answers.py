"""Answers that are sent without the application: to invalid requests, and to connections above the limit."""

from __future__ import annotations

import json
from http import HTTPStatus

from registry.serving.http.request_ids import new_request_id


def raw_error(status: int, error: str, message: str, hint: str, version: str) -> bytes:
    """An error as the bytes of a whole answer, after which the connection is closed."""
    document = {"error": error, "message": message, "hint": hint, "version": version or None}
    body = json.dumps(document).encode()
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
        f"x-request-id: {new_request_id()}",
        *([f"x-ulora-version: {version}"] if version else []),
        *(["retry-after: 1"] if status == HTTPStatus.SERVICE_UNAVAILABLE else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

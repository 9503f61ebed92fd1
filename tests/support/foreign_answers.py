"""Successes that something in front of the store gives: pages, documents of others, statuses that S3 never uses."""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet

from tests.servers.proxy import Exchange, Fault, Reply, answering

_XHTML = b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body>Maintenance</body></html>'
_STATIC = [("ETag", '"65a1-1f4"'), ("Last-Modified", "Sun, 29 Nov 2026 10:00:00 GMT"), ("Accept-Ranges", "bytes")]
"""What web servers say of a file that they serve."""


def _answer(status: int, kind: str, body: bytes) -> Fault:
    return lambda exchange: exchange.send(Reply(status, [("Content-Type", kind), *_STATIC], body))


FOREIGN: dict[str, Fault] = {
    "html in capitals": _answer(200, "Text/HTML; charset=UTF-8", b""),
    "a page": _answer(200, "text/html", b"<html><body>Maintenance<br></body></html>"),
    "xhtml": _answer(200, "application/xhtml+xml", _XHTML),
    "xml": _answer(200, "application/xml", _XHTML),
    "json": _answer(200, "application/json", b'{"status":"maintenance"}'),
    "json with a format": _answer(200, "application/json", b'{"format": 1, "status": "maintenance"}'),
    "text": _answer(200, "text/plain", b"Maintenance"),
    "created": _answer(201, "text/html", b"<html><body>Maintenance<br></body></html>"),
    "partial": _answer(206, "text/html", b"<html><body>Maintenance<br></body></html>"),
}
REFUSALS = (301, 302, 304, 307, 400, 401, 403, 405, 407, 411, 413, 451, 501)
"""Statuses that something in front of the store may give to a write that it has passed on."""


def applied(answer: Fault) -> Fault:
    """Let the server do it, and give another answer."""

    def fault(exchange: Exchange) -> None:
        exchange.forward()
        answer(exchange)

    return fault


def refusal(status: int) -> Fault:
    """An answer with this status that is none of S3's."""
    return lambda exchange: exchange.send(Reply(status, [("Content-Type", "text/html")], b"<html>no</html>"))


def _some(cases: dict[str, Fault], *now: str) -> list[ParameterSet]:
    """Cases by their names; those that are not named here are left to `make acceptance`."""
    return [
        pytest.param(case, id=name, marks=() if name in now else pytest.mark.acceptance) for name, case in cases.items()
    ]


EACH_FOREIGN = _some(FOREIGN, "html in capitals", "json with a format", "partial")
EACH_REFUSAL = _some({str(status): refusal(status) for status in REFUSALS}, "302", "403", "413")
EACH_404 = [
    pytest.param(status, page, id=f"{status} {name}", marks=() if status == 413 else pytest.mark.acceptance)
    for status in (400, 403, 413, 502)
    for name, page in {"a page": refusal(404), "empty": answering(404)}.items()
]
"""What a write that was passed on is answered with, and the look back."""

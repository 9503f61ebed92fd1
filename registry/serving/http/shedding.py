"""Refuse requests that there is no time for as soon as their heads were read, without the application.

Far above its capacity a replica refuses nearly every request, so what a refusal costs decides how many images it still
answers, and how long everybody waits for the event loop. A refusal of `Front` costs a task, a dozen calls and a
response; here it is one look at the queue and one write. What this does not refuse passes all checks of `Front`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from http import HTTPStatus

from registry.errors import BadInput, Overloaded
from registry.serving.follow import Live
from registry.serving.http.clients import deadline_in
from registry.serving.http.options import HttpOptions
from registry.serving.http.request_ids import REQUEST_ID_HEADER, names_of
from registry.serving.http.responses import as_refused, error_document, headers_of, version_of
from registry.serving.http.rights import PREDICT, asks_for_predictions
from registry.serving.http.tokens import BearerTokens

_LINE = f"HTTP/1.1 {HTTPStatus.TOO_MANY_REQUESTS} {HTTPStatus.TOO_MANY_REQUESTS.phrase}".encode()

Headers = list[tuple[bytes, bytes]]


class Shedding:
    """Says which requests are refused at once."""

    def __init__(self, live: Live, options: HttpOptions, tokens: BearerTokens | None) -> None:
        """`tokens`: a request without a valid one is told so by the application, and nothing else."""
        self._live = live
        self._tokens = tokens
        # A client may wait for its 100, and answers to web pages say who may read them.
        self._for_the_application = {b"expect", *([b"origin"] if options.cors_origins else [])}
        self._arriving = 0

    def refusal(self, method: bytes, url: bytes, headers: Headers, more: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The whole answer to a request for predictions that can't be answered in time; empty for any other.

        Args:
            headers: those of the request, their names in lower case.
            more: headers that the server adds to each answer.
        """
        path = url.partition(b"?")[0].decode("latin-1")
        if method != b"POST" or not asks_for_predictions(path):
            return b""
        if any(name in self._for_the_application for name, _ in headers) or not self._may_predict(headers):
            return b""
        began = time.perf_counter()
        try:
            self._live.scheduler.check_admission(deadline_in(headers) or self._live.deadline, self._arriving)
        except Overloaded as error:
            self._live.scheduler.precedence.refused(asyncio.get_running_loop())
            version = version_of(self._live)
            self._live.tally.request_answered(
                version or "", HTTPStatus.TOO_MANY_REQUESTS, time.perf_counter() - began, "stable"
            )
            return _answer(error, path, version, [*more, (REQUEST_ID_HEADER, names_of(headers).request_id.encode())])
        except BadInput:
            return b""  # the application says so
        self._count_arriving()
        return b""

    def _count_arriving(self) -> None:
        """Count a request until the loop's next round, in which it is let wait if its image came with the head.

        Else hundreds that arrive together would all find the queue as it was, and be refused by the application.
        """
        self._arriving += 1
        asyncio.get_running_loop().call_soon(self._has_arrived)

    def _has_arrived(self) -> None:
        self._arriving -= 1

    def _may_predict(self, headers: Headers) -> bool:
        if self._tokens is None:
            return True
        caller = self._tokens.caller(headers)
        return caller is not None and PREDICT in caller.scopes


def _answer(error: Overloaded, path: str, version: str | None, more: Headers) -> bytes:
    refused = as_refused(error)
    body = json.dumps(error_document(refused, path, version), ensure_ascii=False, separators=(",", ":")).encode()
    own = {"content-type": "application/json", **headers_of(version), **refused.headers}
    fields = [*more, *((name.encode(), value.encode()) for name, value in own.items())]
    lines = [_LINE, b"content-length: %d" % len(body), *(b"%b: %b" % field for field in fields), b"", b""]
    return b"\r\n".join(lines) + body

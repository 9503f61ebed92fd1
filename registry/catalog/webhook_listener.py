"""An HTTP listener for webhooks of MLflow, which only wake `reconcile --watch`: what they say is not used as truth.

It takes one request a connection, has a deadline for it, and bounds heads, bodies and connections. It speaks no TLS:
MLflow takes only certificates that everybody trusts, so what has one stands in front of it.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self

from registry.catalog.webhook_signature import DELIVERY, SIGNATURE, TIMESTAMP, Deliveries, RefusedWebhook

PATH = "/mlflow"
MAX_HEAD = 16 * 1024
MAX_BODY = 1024 * 1024
"""Bytes. A webhook holds the description and tags of one version."""
MAX_CONNECTIONS = 32
SECONDS = 10.0
"""For a whole request and its answer."""
AT_MOST_EVERY = 1.0
"""Seconds between two wakes. A webhook that comes sooner wakes after them, so that a flood of changes costs MLflow no
more than that."""
_CLOSE_SECONDS = 5.0
_NUMBER = re.compile(r"-?[0-9]+")
_READ = frozenset({"content-length", "transfer-encoding", SIGNATURE, DELIVERY, TIMESTAMP})
"""The headers that are read. Each of them has one meaning; others may come twice, as proxies add them."""


class _BadRequest(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class _WebhookRequest:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class WebhookUse:
    """What is done with webhooks.

    Attributes:
        model: webhooks about other models are taken and wake nobody.
        wake: called when one was taken.
        refused: called with the reason when one is refused; once for each reason, until one was taken.
    """

    model: str
    wake: Callable[[], None]
    refused: Callable[[str], None]


class WebhookListener:
    """A context manager that takes webhooks in a thread of its own."""

    def __init__(self, listener: socket.socket, deliveries: Deliveries, use: WebhookUse) -> None:
        """Args:
        listener: a socket that listens; it is closed at the end.
        """
        self._listener = listener
        self._deliveries = deliveries
        self._use = use
        self._open = 0
        self._said: set[str] = set()
        self._next_wake = 0.0
        self._waking: asyncio.TimerHandle | None = None
        self._ready = threading.Event()
        self._failure: OSError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="ulora-webhooks", daemon=True)

    def __enter__(self) -> Self:
        """Raises OSError: the socket does not listen."""
        self._thread.start()
        self._ready.wait()
        if self._failure:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop and self._end:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(_CLOSE_SECONDS)

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await asyncio.start_server(self._connected, sock=self._listener, limit=MAX_HEAD)
        except OSError as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        await self._end.wait()
        server.close()  # connections that are open are cancelled with the loop

    # --- one request -------------------------------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            async with asyncio.timeout(SECONDS):
                status, text = await self._answer(reader)
                writer.write(_response(status, text))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # nobody waits for an answer any more, or the listener ends
        finally:
            self._open -= 1
            writer.close()
            if writer.transport.get_write_buffer_size():  # it does not read: closing would wait for it
                writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[HTTPStatus, str]:
        try:
            if self._open > MAX_CONNECTIONS:
                raise _BadRequest(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections")
            return HTTPStatus.OK, self._take(await _read(reader))
        except _BadRequest as error:
            return error.status, str(error)

    def _take(self, request: _WebhookRequest) -> str:
        if request.path != PATH:
            raise _BadRequest(HTTPStatus.NOT_FOUND, f"webhooks go to {PATH}")
        if request.method != "POST":
            raise _BadRequest(HTTPStatus.METHOD_NOT_ALLOWED, "webhooks are sent by POST")
        try:
            is_new = self._deliveries.is_new(request.headers, request.body, time.time())
        except RefusedWebhook as error:
            self._say(str(error))
            raise _BadRequest(HTTPStatus.UNAUTHORIZED, str(error)) from error
        self._said.clear()
        if not is_new:
            return "taken before"
        if _is_of_another(request.body, self._use.model):
            return "taken; it is about another model"
        self._wake_soon()
        return "taken"

    def _say(self, reason: str) -> None:
        kind = _NUMBER.sub("N", reason)  # the age of a message differs each time
        if kind not in self._said:
            self._said.add(kind)
            self._use.refused(reason)

    def _wake_soon(self) -> None:
        if self._waking is None:
            loop = asyncio.get_running_loop()
            self._waking = loop.call_later(max(0.0, self._next_wake - loop.time()), self._wake)

    def _wake(self) -> None:
        self._waking, self._next_wake = None, asyncio.get_running_loop().time() + AT_MOST_EVERY
        self._use.wake()


async def _read(reader: asyncio.StreamReader) -> _WebhookRequest:
    """One request, whole.

    Raises:
        _BadRequest: it is not HTTP, too large, or does not say its length.
        IncompleteReadError: the client went away.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise _BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too large") from error
    first, _, rest = head.partition(b"\r\n")
    words = first.decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _BadRequest(HTTPStatus.BAD_REQUEST, "this is not HTTP/1.1")
    headers = _headers(rest)
    return _WebhookRequest(words[0], words[1].partition("?")[0], headers, await reader.readexactly(_length(headers)))


def _headers(lines: bytes) -> dict[str, str]:
    try:
        found = http.client.parse_headers(io.BytesIO(lines)).items()
    except http.client.HTTPException as error:
        raise _BadRequest(HTTPStatus.BAD_REQUEST, "the headers are not readable") from error
    read = [(name.lower(), value.strip()) for name, value in found if name.lower() in _READ]
    if len(dict(read)) != len(read):
        raise _BadRequest(HTTPStatus.BAD_REQUEST, "a header is there twice")
    return dict(read)


def _length(headers: Mapping[str, str]) -> int:
    text = headers.get("content-length", "0")
    if "transfer-encoding" in headers or not (text.isascii() and text.isdigit()):
        raise _BadRequest(HTTPStatus.LENGTH_REQUIRED, "the length of the body is not said")
    if len(text) > 12 or int(text) > MAX_BODY:
        raise _BadRequest(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has {MAX_BODY} bytes at most")
    return int(text)


def _response(status: HTTPStatus, text: str) -> bytes:
    body = f"{text}\n".encode("ascii", "replace")
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: text/plain",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join((*head, "", "")).encode("ascii") + body


def _is_of_another(body: bytes, model: str) -> bool:
    """Whether a webhook says that it is about another model. One that does not say it may be about this one."""
    try:
        data = json.loads(body).get("data")
        name = data.get("name") if isinstance(data, dict) else None
    except (ValueError, AttributeError, RecursionError):
        return False
    return isinstance(name, str) and name != model

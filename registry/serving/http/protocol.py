"""HTTP on one connection: uvicorn's own protocol over httptools, with bounds on time and on size.

uvicorn bounds only the time between requests. This class bounds what it does not: the time for a head and for a body,
the size of a head (the parser in C knows no bound), trailers, pipelined requests, and clients that do not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from registry.errors import BadInput, Expired
from registry.serving.http.connections import OpenConnections, Phase
from registry.serving.http.raw_answers import raw_error
from registry.serving.http.shedding import Shedding

MAX_HEAD = 64 * 1024
"""Bytes of the request line and the headers."""
MAX_HEADERS = 128
"""Headers of a request. Each is two objects, with 100 bytes more than it has itself."""
MAX_PIPELINED = 16
"""Requests of a connection that may wait for the answer of the one before."""
_FRAMING = 8
"""Bytes that may come with each byte of a body: in chunks of one byte they are 5."""
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
"""Some clients offer HTTP/2 with their first request and expect HTTP/1.1; the parser would drop its body."""


class ReplicaConnection(HttpToolsProtocol):  # type: ignore[misc]
    """One connection of a replica."""

    def __init__(
        self, connections: OpenConnections, version: Callable[[], str], shedding: Shedding, **uvicorns: Any
    ) -> None:
        """Args:
        version: the version that answers now, for errors.
        shedding: says which requests are refused as soon as their heads were read.
        uvicorns: what uvicorn gives its protocols.
        """
        super().__init__(**uvicorns)
        self.access_log = False
        self._open = connections
        self._version = version
        self._shedding = shedding
        self._parsing: Phase | None = None  # HEAD or BODY of a request that has begun
        self._head_bytes = self._framing = self._body_bytes = 0
        self._had_request = self._deaf = self._is_shed = False

    # --- what the transport tells ------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._open.enter(self, Phase.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if self._parsing is Phase.BODY:
            self._framing += len(data)
        else:
            self._head_bytes += len(data)
            data = _without_upgrade(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # CONNECT
            self._refuse(400, "no other protocol than HTTP/1.1 is spoken here")
        except httptools.HttpParserError as error:
            too_much = error.__context__ if isinstance(error.__context__, _TooMuch) else None
            self._refuse(431 if too_much else 400, str(too_much or "this is no valid HTTP/1.1 request"))
        else:
            if self._parsing is not Phase.BODY and self._head_bytes > MAX_HEAD:
                self._refuse(431, f"the head of the request has more than {MAX_HEAD} bytes")
            elif self._framing > MAX_HEAD + _FRAMING * self._body_bytes:
                self._refuse(400, "the body of the request is mostly extensions of chunks, or trailers")
            self._update()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._open.enter(self, Phase.UNREAD)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._update()

    # --- what the parser tells ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._parsing = Phase.HEAD
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._parsing is Phase.HEAD:  # else it is a trailer, which nobody reads
            if len(self.headers) >= MAX_HEADERS:
                raise _TooMuch(f"the request has more than {MAX_HEADERS} headers")
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD:
            raise _TooMuch(f"the head of the request has more than {MAX_HEAD} bytes")
        if len(self.pipeline) >= MAX_PIPELINED:
            raise _TooMuch(f"more than {MAX_PIPELINED} requests wait for the answer of the one before")
        if self._is_ambiguous():
            raise ValueError("a proxy may read this head in another way")
        self._is_shed = self._shed()
        if not self._is_shed:
            super().on_headers_complete()
        self._parsing = Phase.BODY
        self._head_bytes = self._framing = self._body_bytes = 0
        self._had_request = True
        if not self._is_shed:
            self._prepare_answer()

    def _shed(self) -> bool:
        """Refuse the request if there is no time for it, and hear its body without keeping it; whether that was done.

        The answers of a connection come in the order of its requests, and a client that does not read them has to wait.
        Whatever ends the connection is told by the application too.
        """
        parser = self.parser
        if self._answering() or self.flow.write_paused or self._open.draining:
            return False
        if parser.get_http_version() != "1.1" or parser.should_upgrade() or not parser.should_keep_alive():
            return False
        more = self.server_state.default_headers
        refusal = self._shedding.refusal(parser.get_method(), self.url, self.headers, more)
        if refusal:
            self.transport.write(refusal)
        return bool(refusal)

    def _prepare_answer(self) -> None:
        if self.scope["method"] != "HEAD":
            self.cycle.transport = _WholeAnswer(self.transport)
        if self._open.draining:
            self.cycle.keep_alive = False

    def _is_ambiguous(self) -> bool:
        """Whether a proxy may see another host, or another end of the body, than this parser, which takes these."""
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        known = ([], [b"chunked"]) if version == "1.1" else ([],)
        return version not in ("1.0", "1.1") or hosts > 1 or codings not in known

    def on_body(self, body: bytes) -> None:
        self._framing -= len(body)
        self._body_bytes += len(body)
        if not self._is_shed:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._parsing = None
        if not self._is_shed:
            super().on_message_complete()

    # --- answers -----------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        is_last = not self.pipeline
        super().on_response_complete()
        if self._deaf and is_last:
            self.transport.close()
        # A client that asks before it sends a body, and was not told to, may send it or not: nobody can tell the body
        # from the next request.
        if self._parsing is Phase.BODY and self.expect_100_continue:
            self.transport.close()
        self._update()

    def drain(self) -> None:
        """Let the answer that is being made be the last of this connection, or if it did not say so the next one."""
        if self._answering() and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close the connection, after the answer that is being made."""
        if self._answering():
            self.cycle.keep_alive = False
        else:
            self._close()

    def time_is_over(self, phase: Phase) -> None:
        """It stayed in a phase for too long, or has to give way."""
        if phase in (Phase.UNREAD, Phase.CLOSING):
            self.transport.abort()
        elif self._parsing is None:
            self._close()
        else:
            what = "head" if phase is Phase.HEAD else "body"
            self._refuse(408, f"the {what} of the request did not arrive in time", Expired.__name__)

    def _refuse(self, status: int, message: str, error: str = BadInput.__name__) -> None:
        """Answer what is no request, and close the connection."""
        in_body = self._parsing is Phase.BODY
        if self._answering():
            if not in_body or self.cycle.response_started or self.pipeline:
                if in_body and self.pipeline:
                    self.pipeline.popleft()  # the newest is this one: nobody should wait for the rest of its body
                self._be_deaf()
                return
            self.cycle.disconnected = True  # the body of this very request is what is wrong
            self.cycle.message_event.set()
        elif in_body:
            self._close()  # the request was answered already
            return
        self.transport.write(raw_error(status, error, message, "see the documentation of /docs", self._version()))
        self._close()

    def _be_deaf(self) -> None:
        """Hear nothing more, and close after the answer that is being made: an error could be taken for that."""
        self._deaf = True
        self._parsing = None
        self.cycle.keep_alive = False
        self._update()

    def _close(self) -> None:
        self.transport.close()
        self._open.enter(self, Phase.CLOSING)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.disconnected

    def _update(self) -> None:
        """Enter the phase that the connection is in now."""
        if self not in self._open:
            return  # it is lost
        if self.transport.is_closing():
            phase = Phase.CLOSING
        elif self.flow.write_paused:
            phase = Phase.UNREAD
        elif self._parsing is Phase.BODY:
            phase = Phase.BODY
        elif self._answering():
            phase = Phase.ANSWER
        elif self._parsing is Phase.HEAD or not self._had_request:
            phase = Phase.HEAD
        else:
            phase = Phase.IDLE
        self._open.enter(self, phase)


class _WholeAnswer:
    """The transport of one answer, which sends its head with the first part of its body: one packet instead of two."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head = b""
        self._head_is_sent = False

    def write(self, data: bytes) -> None:
        if self._head_is_sent or data.startswith(b"HTTP/1.1 100 "):
            self._transport.write(data)
        elif self._head:
            self._head_is_sent = True
            self._transport.write(self._head + data)
        else:
            self._head = data

    def close(self) -> None:
        if not self._head_is_sent:
            self._transport.write(self._head)
        self._transport.close()

    def is_closing(self) -> bool:
        return bool(self._transport.is_closing())


def _without_upgrade(data: bytes) -> bytes:
    """The beginning of a request without the offer to speak another protocol."""
    end = data.find(b"\r\n\r\n")
    offer = _UPGRADE.search(data, 0, len(data) if end < 0 else end + 2)
    return data if offer is None else data[: offer.start()] + b"\r\nx-upgrade:" + data[offer.end() :]


class _TooMuch(Exception):
    """A request has too much of something."""

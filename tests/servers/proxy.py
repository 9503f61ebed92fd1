"""A TCP proxy in front of a server that makes network faults on demand.

    proxy.next(swallow_reply, method="PUT", containing="/channels/")

loses the reply of the next matching request after the server has applied it. A fault is a function of an `Exchange`,
so a test can write its own. All requests are in `proxy.requests`, in order of arrival.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

_TIMEOUT_SECONDS = 300
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}


@dataclass(frozen=True)
class Reply:
    """What the server answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Exchange:
    """One request on its way: a fault decides whether it reaches the server and what the client sees."""

    def __init__(self, handler: BaseHTTPRequestHandler, upstream: int, body: bytes) -> None:
        self.method, self.path, self.body = handler.command, handler.path, body
        self._handler = handler
        self._upstream = upstream

    def forward(self) -> Reply:
        """Let the server apply the request, and return its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._upstream, timeout=_TIMEOUT_SECONDS)
        try:
            connection.putrequest(self.method, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self._handler.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(self.body)))
            connection.endheaders(self.body)
            response = connection.getresponse()
            return Reply(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def forward_half(self) -> None:
        """Let the server see half of the request, then break that connection too."""
        connection = http.client.HTTPConnection("127.0.0.1", self._upstream, timeout=_TIMEOUT_SECONDS)
        connection.putrequest(self.method, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self._handler.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(self.body)))
        connection.endheaders(self.body[: len(self.body) // 2])
        connection.close()

    def send(self, reply: Reply, *, body_bytes: int | None = None) -> None:
        """Give the client a reply, or only the first bytes of its body."""
        self._handler.send_response_only(reply.status)
        named = {name.lower(): value for name, value in reply.headers}
        length = named.get("content-length", "0") if self.method == "HEAD" else str(len(reply.body))
        for name, value in reply.headers:
            if name.lower() not in _HOP_BY_HOP:
                self._handler.send_header(name, value)
        if reply.status not in (204, 304):
            self._handler.send_header("Content-Length", length)
        self._handler.end_headers()
        if self.method != "HEAD":
            self._handler.wfile.write(reply.body[:body_bytes])

    def drip(self, reply: Reply, pause: float, *, body_only: bool = False) -> None:
        """Give the client a reply byte by byte; returns when the client has gone, or at the end."""
        headers = [(name, value) for name, value in reply.headers if name.lower() not in _HOP_BY_HOP]
        lines = [f"{name}: {value}" for name, value in [*headers, ("Content-Length", str(len(reply.body) + 1000))]]
        head = "\r\n".join([f"HTTP/1.1 {reply.status} OK", *lines, "", ""]).encode()
        out, slow = self._handler.wfile, (reply.body if body_only else head) + b" " * 1000
        with suppress(OSError):
            if body_only:
                out.write(head)
            for byte in slow:
                out.write(bytes([byte]))
                out.flush()
                time.sleep(pause)
        self.close()

    def write(self, part: bytes) -> None:
        """Give the client more bytes."""
        self._handler.wfile.write(part)

    def close(self) -> None:
        """End the client's connection in order."""
        self._handler.close_connection = True

    def reset(self) -> None:
        """Break the client's connection, as a dying network or process does."""
        connection = self._handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The handler's two files hold the socket open as well: close it under them.
        self._handler.close_connection = True
        socket.close(connection.detach())


Fault = Callable[[Exchange], None]


def swallow_reply(exchange: Exchange) -> None:
    """The server applies the request; the client gets no reply."""
    exchange.forward()
    exchange.reset()


def refuse(exchange: Exchange) -> None:
    """The request never reaches the server; the connection breaks."""
    exchange.reset()


def unavailable(exchange: Exchange) -> None:
    """The request never reaches the server; the client gets 503."""
    exchange.send(Reply(503, [], b""))


def answering(status: int, code: str = "") -> Fault:
    """The request never reaches the server; the client gets an error with this status and code of S3."""
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    return lambda exchange: exchange.send(Reply(status, [("Content-Type", "application/xml")], body))


def fail_after_applying(exchange: Exchange) -> None:
    """The server applies the request; the client gets 500."""
    exchange.forward()
    exchange.send(Reply(500, [], b""))


def cut_body(exchange: Exchange) -> None:
    """The client gets half of the reply's body, then the connection breaks."""
    reply = exchange.forward()
    exchange.send(reply, body_bytes=len(reply.body) // 2)
    exchange.reset()


def cut_request(exchange: Exchange) -> None:
    """The connections break when half of the request's body has reached the server."""
    exchange.forward_half()
    exchange.reset()


def drip_headers(exchange: Exchange) -> None:
    """The server applies the request; the client gets a byte of the reply every now and then, from the first on."""
    exchange.drip(exchange.forward(), 0.1)


def drip_body(exchange: Exchange) -> None:
    """The server applies the request; the client gets a byte of the reply's body every now and then."""
    exchange.drip(exchange.forward(), 0.1, body_only=True)


class Hold:
    """A fault that breaks the client's connection and lets the request land only when the test calls `release`."""

    def __init__(self) -> None:
        self.arrived, self._released, self.landed = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        self.arrived.set()
        exchange.reset()
        if self._released.wait(_TIMEOUT_SECONDS):
            exchange.forward()
            self.landed.set()

    def release(self) -> None:
        """Let the request reach the server now; returns when the server has answered."""
        self._released.set()
        if not self.landed.wait(_TIMEOUT_SECONDS):
            raise TimeoutError("the held request did not land")


class Stall:
    """A fault that answers only when the test calls `release`: a slow server."""

    def __init__(self) -> None:
        self.arrived, self._released = threading.Event(), threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        self.arrived.set()
        self._released.wait(_TIMEOUT_SECONDS)
        exchange.send(exchange.forward())

    def release(self) -> None:
        """Let the request through now."""
        self._released.set()


def drip(exchange: Exchange) -> None:
    """The client gets a byte now and then until it has gone: each of its reads ends in time, the answer never does."""
    with suppress(OSError):
        exchange.send(Reply(200, [("Content-Type", "application/json")], b"{" + b" " * 10**6), body_bytes=1)
        while True:
            exchange.write(b" ")
            time.sleep(0.1)
    exchange.close()


@dataclass
class _Planned:
    fault: Fault
    method: str | None
    containing: str
    times: int


@dataclass
class Proxy:
    """Forwards requests on `url` to a server's port on 127.0.0.1. A context manager.

    Attributes:
        requests: (method, path with query) of each request, in order of arrival.
    """

    upstream: int
    requests: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._plans: list[_Planned] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        """Where clients connect instead of the server."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def next(self, fault: Fault, *, method: str | None = None, containing: str = "", times: int = 1) -> None:
        """Make a fault of the next requests that have this method and this text in their path."""
        with self._lock:
            self._plans.append(_Planned(fault, method, containing, times))

    def clear(self) -> None:
        """Forget the faults that were planned, and the requests that passed."""
        with self._lock:
            self._plans.clear()
            self.requests.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _fault_of(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append((method, path))
            for plan in self._plans:
                if plan.times and plan.method in (None, method) and plan.containing in path:
                    plan.times -= 1
                    return plan.fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing when a client has gone."""


def _handler_of(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _TIMEOUT_SECONDS
        disable_nagle_algorithm = True

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = proxy._fault_of(self.command, self.path)
            exchange = Exchange(self, proxy.upstream, body)
            if fault is not None:
                fault(exchange)
                return
            try:
                reply = exchange.forward()
            except OSError:
                exchange.reset()
            else:
                exchange.send(reply)

        do_GET = do_PUT = do_POST = do_PATCH = do_HEAD = do_DELETE = _pass_on

        def log_message(self, format: str, *args: object) -> None:
            """Tests read `proxy.requests` instead."""

    return Handler

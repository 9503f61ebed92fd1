"""Counts what goes to a server: requests and bytes, at the level of HTTP, through a proxy on loopback."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) ([^ \r\n]+) HTTP/1\.[01]\r\n")
_END_OF_HEAD = b"\r\n\r\n"
_CHUNK = 256 * 1024


@dataclass
class Traffic:
    """What went through.

    Attributes:
        requests: the methods of HTTP requests, in order; `LIST` for a GET that lists objects.
        sent, received: bytes to and from the server, with their heads.
        bodies: bytes that were sent without heads, by the path of the request.
    """

    requests: list[str]
    sent: int = 0
    received: int = 0
    bodies: Counter[str] = field(default_factory=Counter)


class CountingProxy:
    """A proxy in front of one server, to be given as its address. A context manager.

    A request is counted where a client begins to send after it got an answer; requests that are pipelined would be
    counted once. It does not change a byte: signatures that cover the `Host` stay valid.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.traffic = Traffic([])

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def take(self) -> Traffic:
        """What was counted; from here on from zero."""
        with self._lock:
            counted, self.traffic = self.traffic, Traffic([])
        return counted

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._to)
                threading.Thread(target=_Pair(self, client, server).run, daemon=True).start()

    def count_sent(self, data: bytes, request: _SentRequest, *, is_first: bool) -> None:
        """Add what a client sent of a request; `is_first` for the first of it."""
        with self._lock:
            self.traffic.sent += len(data)
            if is_first and request.method:
                self.traffic.requests.append(request.method)
            body = request.body_of(data)
            if body:
                self.traffic.bodies[request.path] += body

    def count_received(self, size: int) -> None:
        """Add what the server sent."""
        with self._lock:
            self.traffic.received += size


@dataclass
class _SentRequest:
    """A request that is being sent: its method, its path, and the end of its head as far as it was sent."""

    method: str = ""
    path: str = ""
    _tail: bytes | None = b""

    def body_of(self, data: bytes) -> int:
        """How many of the next bytes are of its body."""
        if self._tail is None:
            return len(data)
        seen = self._tail + data
        end = seen.find(_END_OF_HEAD)
        self._tail = None if end >= 0 else seen[-len(_END_OF_HEAD) + 1 :]
        return len(seen) - end - len(_END_OF_HEAD) if end >= 0 else 0


class _Pair:
    """A connection to the proxy, and the one to the server that belongs to it."""

    def __init__(self, proxy: CountingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._was_answered = True
        self._request = _SentRequest()

    def run(self) -> None:
        """Forward both ways until one side ends."""
        upwards = threading.Thread(target=self._to_server, daemon=True)
        upwards.start()
        self._to_client()
        upwards.join()
        for one in (self._client, self._server):
            one.close()

    def _to_server(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(_CHUNK):
                found = _REQUEST.match(data) if self._was_answered else None
                self._was_answered = False
                if found:
                    method, target = (group.decode("utf-8", "replace") for group in found.groups())
                    asked = urlsplit(target)
                    lists = method == "GET" and "list-type=2" in asked.query
                    self._request = _SentRequest("LIST" if lists else method, asked.path)
                self._proxy.count_sent(data, self._request, is_first=found is not None)
                self._server.sendall(data)
        self._end()

    def _to_client(self) -> None:
        with suppress(OSError):
            while data := self._server.recv(_CHUNK):
                self._was_answered = True
                self._proxy.count_received(len(data))
                self._client.sendall(data)
        self._end()

    def _end(self) -> None:
        for one in (self._client, self._server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

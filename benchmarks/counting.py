"""Counts what goes to a server: requests and bytes, at the level of HTTP, through a proxy on loopback."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) [^\r\n]+ HTTP/1\.[01]\r\n")
_CHUNK = 256 * 1024


@dataclass
class Traffic:
    """What went through.

    Attributes:
        requests: the methods of HTTP requests, in order.
        sent, received: bytes to and from the server, with their heads.
    """

    requests: list[str]
    sent: int = 0
    received: int = 0


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

    def count(self, *, method: str = "", sent: int = 0, received: int = 0) -> None:
        """Add to the traffic."""
        with self._lock:
            self.traffic.sent += sent
            self.traffic.received += received
            if method:
                self.traffic.requests.append(method)


class _Pair:
    """A connection to the proxy, and the one to the server that belongs to it."""

    def __init__(self, proxy: CountingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._was_answered = True

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
                self._proxy.count(method=found.group(1).decode() if found else "", sent=len(data))
                self._server.sendall(data)
        self._end()

    def _to_client(self) -> None:
        with suppress(OSError):
            while data := self._server.recv(_CHUNK):
                self._was_answered = True
                self._proxy.count(received=len(data))
                self._client.sendall(data)
        self._end()

    def _end(self) -> None:
        for one in (self._client, self._server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

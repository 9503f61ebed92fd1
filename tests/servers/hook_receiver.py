"""Receivers of webhooks: one that answers as it is told, and one that speaks no proper HTTP."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from threading import Thread
from typing import Self

from tests.servers.loopback import Loopback


@dataclass(frozen=True)
class Received:
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: bytes


class HookReceiver(Loopback):
    """A context manager that answers with these statuses, the last one again and again; `received` has what came."""

    def __init__(self, *statuses: int, headers: dict[str, str] | None = None) -> None:
        self.received: list[Received] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = statuses[min(len(outer.received), len(statuses) - 1)]
                outer.received.append(
                    Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                )
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"invalid_payload")

            def log_message(self, format: str, *args: object) -> None:
                """Print nothing."""

        super().__init__(Handler)


class RawReceiver:
    """A context manager that gives each connection to a function; `url` is its address. Errors of sockets end one."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/hook"
        self._thread = Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for each in self._open:
            each.close()
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._open.append(connection)
                Thread(target=self._one, args=[connection], daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with suppress(OSError):
            self._answer(connection)

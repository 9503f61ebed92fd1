"""Accept the connections of a replica, as many as there is room for.

asyncio's own way accepts all that wait, up to thousands, before anything can count them, and that may take the last
file handle. This one looks at each; it also bounds the time of a TLS handshake.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

from registry.serving.http.certificates import ServerCertificate
from registry.serving.http.connections import OpenConnections, Phase
from registry.serving.http.protocol import ReplicaConnection
from registry.serving.http.raw_answers import raw_error

_AT_A_TIME = 64
"""Connections that are accepted before others get their turn."""
_PAUSE = 0.5
"""Seconds after which it is tried again when the system had no handle or no memory for a connection."""
_TLS_SECONDS = 10.0
"""For a handshake, and for the goodbye of one."""

_log = logging.getLogger(__name__)


class Acceptor:
    """Accepts connections on one socket until it is closed. uvicorn keeps it as one of its `servers`."""

    def __init__(
        self,
        listener: socket.socket,
        connections: OpenConnections,
        make: Callable[[], ReplicaConnection],
        certificate: ServerCertificate,
    ) -> None:
        self._listener = listener
        self._connections = connections
        self._make = make
        self._certificate = certificate
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        self._full = False
        listener.setblocking(False)
        connections.start(self._loop)
        self._resume()

    def close(self) -> None:
        """Accept no more. Connections stay."""
        self._loop.remove_reader(self._listener)
        if self._paused:
            self._paused.cancel()

    async def wait_closed(self) -> None:
        """Return at once: uvicorn waits for the connections itself."""
        self._connections.stop()

    def _resume(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_A_TIME):
            try:
                accepted, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no handle or no memory left
                _log.error("no connection can be accepted: %s", error)
                self._loop.remove_reader(self._listener)
                self._paused = self._loop.call_later(_PAUSE, self._resume)
                return
            if self._connections.has_room(accepted.fileno()):
                self._full = False
                self._open(accepted)
            else:
                self._refuse(accepted)

    def _open(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        connection = self._make()
        self._connections.enter(connection, Phase.HANDSHAKE)
        task = self._loop.create_task(self._shake_hands(accepted, connection))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, accepted: socket.socket, connection: ReplicaConnection) -> None:
        tls = self._certificate.settings()
        seconds = _TLS_SECONDS if tls else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=tls, ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=seconds,
            )  # fmt: skip
        except OSError:  # the client went away, or speaks no TLS
            self._connections.leave(connection)
            accepted.close()

    def _refuse(self, accepted: socket.socket) -> None:
        if not self._full:
            self._full = True
            _log.warning("%d connections are open: more are refused", len(self._connections))
        with accepted, suppress(OSError):
            accepted.setblocking(False)
            if self._certificate.settings() is None:
                accepted.send(raw_error(503, "Overloaded", "too many connections", "send it again later", ""))
                accepted.shutdown(socket.SHUT_WR)

"""The open connections of a replica: how long each may take for what it is at, and how many there may be.

Every connection is in one phase. A phase has the same seconds for all, so the connections of a phase, in the order in
which they came to it, are also in the order of their deadlines: a look at the first ones finds what is over.
"""

from __future__ import annotations

import asyncio
import resource
import time
from enum import Enum, auto
from typing import Protocol

from registry.serving.http.options import HttpOptions

RESERVED_FILES = 256
"""File handles that connections leave free: for the cache's files and the store's connections while versions are
loaded, and for log files and such."""
_LOOK_EVERY = 0.25
"""Seconds between two looks for connections whose time is over."""
_CLOSING_SECONDS = 5.0
"""For sending what was answered to a client that does not read."""


class Phase(Enum):
    """What a connection is at."""

    HANDSHAKE = auto()
    """It is being made; TLS bounds that itself."""
    HEAD = auto()
    """The head of a request is awaited: the first after the connection was made, or one that has begun to arrive."""
    IDLE = auto()
    """Nothing of another request has arrived since the last answer."""
    BODY = auto()
    """The body of a request is arriving."""
    ANSWER = auto()
    """The request has arrived, the answer is being made: that has a deadline of its own."""
    UNREAD = auto()
    """The client does not read its answer."""
    CLOSING = auto()
    """The server closes it."""


_GIVES_WAY_AFTER = {Phase.IDLE: 1.0, Phase.HEAD: 1.0, Phase.BODY: 5.0}
"""Seconds in a phase after which a connection gives way to a new one where there are too many. Bodies that never end
would otherwise keep out the probes that ask whether the replica lives."""


class TimedConnection(Protocol):
    """A connection that can be told that its time is over."""

    def time_is_over(self, phase: Phase) -> None:
        """It stayed in a phase for too long, or has to give way."""


class OpenConnections:
    """The connections of one server. It belongs to the thread of its event loop.

    Attributes:
        draining: the replica ends soon: the next answer on each connection is its last.
    """

    def __init__(self, options: HttpOptions) -> None:
        self.draining = False
        self._max = options.max_connections
        self._seconds = {
            Phase.HEAD: options.header_seconds,
            Phase.IDLE: options.idle_seconds,
            Phase.BODY: options.body_seconds,
            Phase.UNREAD: options.body_seconds,
            Phase.CLOSING: _CLOSING_SECONDS,
        }
        self._in: dict[Phase, dict[TimedConnection, float]] = {phase: {} for phase in Phase}
        self._phase: dict[TimedConnection, Phase] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._phase)

    def __contains__(self, connection: TimedConnection) -> bool:
        return connection in self._phase

    def enter(self, connection: TimedConnection, phase: Phase) -> None:
        """A connection is in this phase from now on; it keeps its time if it was before."""
        before = self._phase.get(connection)
        if before is phase:
            return
        if before is not None:
            del self._in[before][connection]
        self._phase[connection] = phase
        self._in[phase][connection] = time.monotonic()

    def leave(self, connection: TimedConnection) -> None:
        """A connection is closed, or was never made."""
        phase = self._phase.pop(connection, None)
        if phase is not None:
            del self._in[phase][connection]

    def has_room(self, handle: int) -> bool:
        """Whether a new connection may stay, if necessary in the place of another whose request has not arrived.

        Args:
            handle: its file handle. The system gives out the lowest that is free, so it says how many are in use.
        """
        if len(self) < self._max and handle < _usable_files():
            return True
        return self._close_one()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look for connections whose time is over from now on, until `stop`."""
        self._timer = loop.call_later(_LOOK_EVERY, self._look, loop)

    def stop(self) -> None:
        """Look no more."""
        if self._timer:
            self._timer.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        for phase, seconds in self._seconds.items():
            over = []
            for connection, since in self._in[phase].items():
                if now - since < seconds:
                    break
                over.append(connection)
            for connection in over:
                connection.time_is_over(phase)
        self.start(loop)

    def _close_one(self) -> bool:
        """Close the connection that has been longest without a whole request; False if all are new to their phases."""
        now = time.monotonic()
        for phase, seconds in _GIVES_WAY_AFTER.items():
            connection, since = next(iter(self._in[phase].items()), (None, now))
            if connection is not None and now - since >= seconds:
                connection.time_is_over(phase)
                connection.time_is_over(Phase.CLOSING)  # by TLS it would wait for the client, and keep its file handle
                return True
        return False


def _usable_files() -> float:
    """File handles below which connections may be: of few, half are reserved."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    return limit - min(RESERVED_FILES, limit // 2)

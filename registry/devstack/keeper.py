"""Start servers of a stack again that ended without being asked to."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from registry.devstack.server import Server
from registry.errors import UloraError, first_line
from registry.progress import Say

MAX_STARTS, WITHIN_SECONDS = 5, 300.0
"""A server that ends more often than that in so many seconds is not started again."""


class Keeper:
    """Looks after servers that should run; `look` is called again and again."""

    def __init__(self, servers: Sequence[Server], say: Say) -> None:
        self._servers = servers
        self._say = say
        self._starts: dict[str, deque[float]] = {server.name: deque(maxlen=MAX_STARTS) for server in servers}

    def look(self) -> None:
        """Start again what has ended, on the same ports and data.

        Raises:
            UloraError: a server ends again and again, or can't be started.
        """
        for server in self._servers:
            if why := server.why_ended():
                self._start_again(server, why)

    def _start_again(self, server: Server, why: str) -> None:
        starts, now = self._starts[server.name], time.monotonic()
        if len(starts) == MAX_STARTS and now - starts[0] < WITHIN_SECONDS:
            raise UloraError(f"{why}\nthat was the {MAX_STARTS + 1}. time within minutes", hint=f"see {server.log}")
        starts.append(now)
        self._say(f"the {server.name} server ended ({first_line(UloraError(why))}); starting it again")
        server.start()
        self._say(f"the {server.name} server answers again at {server.url}")

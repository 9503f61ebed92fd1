"""Ports on loopback, reserved for one embedded server from their choice on.

No other server may take a port between its choice and the moment when the server listens on it. A bound socket can't be
passed to these servers: SeaweedFS opens ten ports by itself, and `mlflow server` starts uvicorn in another process. So
the numbers are reserved: who holds the UDP port of a number may use the TCP port of that number. The kernel gives a UDP
port to one socket at a time, in the same network namespace as the TCP port, and frees it when the process ends for
whatever reason. There are no lock files to remove, and nothing is sent over UDP.

Programs that do not know of the reservation can still take the TCP port. `Server` handles that: it starts again on
other ports, and it is ready only when the answer proves who answers.
"""

from __future__ import annotations

import secrets
import socket
import time
import weakref

from registry.errors import UloraError

HOST = "127.0.0.1"
# Below the ports that systems give to outgoing connections (32768 and up on Linux), also after weed has added 10000.
_FIRST_PORT, _LAST_PORT = 15_000, 22_700
_TRIES = 200
_POLL_SECONDS = 0.02


class Ports:
    """`count` consecutive TCP ports, and those `offset` above them, reserved until this object is gone. A server that
    listens nowhere has none.

    Attributes:
        first: the lowest of them.
        numbers: all of them.
    """

    def __init__(self, count: int = 1, offset: int = 0, first: int | None = None) -> None:
        """Choose and reserve unused ports: those from `first` on if they are, else any.

        Raises:
            UloraError: none were found.
        """
        for attempt in range(_TRIES):
            chosen = _FIRST_PORT + secrets.randbelow(_LAST_PORT - _FIRST_PORT)
            self.first = chosen if first is None or attempt else first
            self.numbers = [self.first + shift + number for shift in sorted({0, offset}) for number in range(count)]
            reserved = _reserve(self.numbers)
            if reserved is not None and not self.taken():
                weakref.finalize(self, _close, reserved)
                return
            _close(reserved or [])
        raise UloraError(f"no {count} consecutive free ports on {HOST}", hint="stop some servers and run it again")

    def taken(self, seconds: float = 0.0) -> list[int]:
        """Those that a process listens on; waits for at most `seconds` until none is left."""
        deadline = time.monotonic() + seconds
        while True:
            taken = [number for number in self.numbers if not is_free(number)]
            if not taken or time.monotonic() > deadline:
                return taken
            time.sleep(_POLL_SECONDS)


def is_free(port: int) -> bool:
    """Whether a server could listen on a TCP port now."""
    with socket.socket() as probe:
        # Connections of an earlier server that are still closing do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _reserve(numbers: list[int]) -> list[socket.socket] | None:
    """Bind the UDP port of each number; None if one of them is bound already."""
    reserved: list[socket.socket] = []
    for number in numbers:
        held = socket.socket(type=socket.SOCK_DGRAM)
        reserved.append(held)
        try:
            held.bind((HOST, number))
        except OSError:
            _close(reserved)
            return None
    return reserved


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()

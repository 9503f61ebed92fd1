"""The socket of a server."""

from __future__ import annotations

import socket

from registry.errors import BadSetting

_BACKLOG = 2048


def listen(host: str, port: int, options: str = "--port or --host") -> socket.socket:
    """A socket that listens, whose connections send every answer at once.

    asyncio switches Nagle's algorithm off only for sockets that were made with the protocol TCP by name, which these
    are not: the second packet of an answer would wait 40 ms for a client's acknowledgement of the first.

    Args:
        options: the command's, which choose host and port, for errors.

    Raises:
        BadSetting: the port is in use, or the host is not an address of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
        return listener
    except (OSError, OverflowError) as error:
        raise BadSetting(
            f"can't listen on {host}:{port}: {getattr(error, 'strerror', None) or error}",
            hint=f"the port is in use, or the host is not an address of this machine: choose another {options}",
        ) from error


def check_free(host: str, port: int) -> None:
    """Check that `listen` would work now, before a version is loaded for it.

    The socket is not kept: one that accepts before there are answers would let every health check wait.

    Raises:
        BadSetting: it would not.
    """
    listen(host, port).close()


def is_listening(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True

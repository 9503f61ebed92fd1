"""The socket of a replica."""

from __future__ import annotations

import socket

from registry.errors import BadSetting

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        BadSetting: the port is in use, or the host is not an address of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise BadSetting(
            f"can't listen on {host}:{port}: {getattr(error, 'strerror', None) or error}",
            hint="the port is in use, or the host is not an address of this machine: choose another --port or --host",
        ) from error


def check_free(host: str, port: int) -> None:
    """Check that `listen` would work now, before a version is loaded for it.

    The socket is not kept: one that accepts before there are answers would let every health check wait.

    Raises:
        BadSetting: it would not.
    """
    listen(host, port).close()

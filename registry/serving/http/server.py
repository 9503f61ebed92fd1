"""The server of a replica: its socket, its signals, its end."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn

from registry.serving.follow import Live
from registry.serving.http.app import create_app
from registry.serving.http.options import HttpOptions
from registry.serving.listening import listen


def serve(live: Live, options: HttpOptions, started: Callable[[str], None] = lambda url: None) -> None:
    """Serve until Ctrl-C or SIGTERM, then finish the running requests and return.

    Args:
        live: a started replica; the caller closes it.
        started: called with the URL once requests are answered and signals are handled.

    Raises:
        BadSetting: the port is in use, or the host is not an address of this machine.
    """
    config = uvicorn.Config(
        create_app(live, options), log_config=None, timeout_graceful_shutdown=options.grace / 2, server_header=False,
        headers=_instance_header(), loop="asyncio",  # others take the wakeup file descriptor, on which a watchdog waits
    )  # fmt: skip
    with listen(options.host, options.port) as listener:
        server = _Server(config, lambda: started(f"http://{_in_url(options.host)}:{listener.getsockname()[1]}"))
        # uvicorn shuts down cleanly and then raises the signal again.
        with _sigterm_ends(server), suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


class _Server(uvicorn.Server):  # type: ignore[misc]
    """uvicorn's server, which calls `started` when it has started."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()


def _instance_header() -> list[tuple[str, str]]:
    """Lets whoever started this process know its answers from those of another process on the same port."""
    instance = os.environ.get("ULORA_INSTANCE")
    return [("X-Ulora-Instance", instance)] if instance else []


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def _sigterm_ends(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGTERM, which orchestrators send, end the server as Ctrl-C does, so that the caller can clean up.

    This also covers the time before uvicorn handles signals, and the signal that it raises again at its end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        server.should_exit = True

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""The server of a replica: its socket, its signals, its end.

uvicorn, because its protocols are small classes that can be bounded (see `protocol`), and it runs on asyncio's loop;
other loops take the wakeup file descriptor, on which a watchdog waits. hypercorn's time is for one read, which a byte a
second passes; granian bounds heads, not bodies, and accepts in threads of its own, which nothing here can count.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

import uvicorn

from registry.serving.follow import Live
from registry.serving.http.accepting import Acceptor
from registry.serving.http.app import create_app
from registry.serving.http.certificates import ServerCertificate
from registry.serving.http.connections import OpenConnections
from registry.serving.http.options import HttpOptions
from registry.serving.http.protocol import ReplicaConnection
from registry.serving.http.responses import version_of
from registry.serving.http.shedding import Shedding
from registry.serving.http.start_line import log_start
from registry.serving.http.tokens import BearerTokens
from registry.serving.listening import listen

_RUNNING = 2 / 3
"""Of what `drain` leaves of `grace`: for requests that still run; the rest is for closing the replica."""


def serve(live: Live, options: HttpOptions, started: Callable[[str], None] = lambda url: None) -> None:
    """Serve until Ctrl-C or SIGTERM, then finish the running requests and return.

    Args:
        live: a started replica; the caller closes it.
        started: called with the URL once requests are answered and signals are handled.

    Raises:
        BadSetting: the port is in use, or the host is not an address of this machine; or a certificate or the tokens
            can't be used.
    """
    with listen(options.host, options.port) as listener:
        server = HttpServer(live, options, listener, started)
        # uvicorn shuts down cleanly and then raises the signal again.
        with _handling_signals(server), suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


class HttpServer(uvicorn.Server):  # type: ignore[misc]
    """uvicorn's server, with bounded connections and an end in steps."""

    def __init__(
        self, live: Live, options: HttpOptions, listener: socket.socket, started: Callable[[str], None]
    ) -> None:
        """Args:
        started: called with the URL.

        Raises:
            BadSetting: a certificate or the tokens can't be used.
        """
        app = create_app(live, options)
        super().__init__(
            uvicorn.Config(
                app, http=ReplicaConnection, ws="none", lifespan="off", loop="asyncio", log_config=None,
                access_log=False, server_header=False, headers=_instance_header(),
                timeout_keep_alive=options.idle_seconds,
                timeout_graceful_shutdown=_RUNNING * (options.grace - options.drain_seconds),
            )
        )  # fmt: skip
        self._tokens: BearerTokens | None = app.state.tokens
        self._live = live
        self._options = options
        self.listener = listener
        self._told = started
        self._certificate = ServerCertificate(options.ssl_certfile, options.ssl_keyfile)
        self.open = OpenConnections(options)
        self._exit_at = float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and say where."""
        shedding = Shedding(self._live, self._options, self._tokens)
        make = partial(
            ReplicaConnection, self.open, self._version, shedding, config=self.config, server_state=self.server_state,
            app_state={},
        )  # fmt: skip
        self.servers = [Acceptor(self.listener, self.open, make, self._certificate)]
        self.started = True
        scheme = "https" if self._certificate.settings() else "http"
        url = f"{scheme}://{_in_url(self._options.host)}:{self.listener.getsockname()[1]}"
        log_start(self._live, self._options, url, with_tokens=self._tokens is not None)
        self._told(url)

    async def on_tick(self, counter: int) -> bool:
        """Whether the main loop ends."""
        if time.monotonic() >= self._exit_at:
            self.should_exit = True
        return await super().on_tick(counter)  # type: ignore[no-any-return]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first SIGTERM lets the replica drain; Ctrl-C ends it without; after either, one more ends it at once."""
        self._captured_signals.append(sig)
        if self.should_exit or self.open.draining:
            self.should_exit = self.force_exit = True
        elif sig == signal.SIGTERM and self._options.drain_seconds > 0 and self.started:
            self.begin_drain()
        else:
            self.should_exit = True

    def begin_drain(self) -> None:
        """Be ready no more, and end after `drain` seconds; until then requests are answered as ever."""
        self._live.draining = True
        self.open.draining = True
        for connection in list(self.server_state.connections):
            connection.drain()
        self._exit_at = time.monotonic() + self._options.drain_seconds

    def read_files_again(self) -> None:
        """Read the files of tokens and of the certificate, if there are any, when they are needed next."""
        self._certificate.look_soon()
        if self._tokens:
            self._tokens.look_soon()

    def _version(self) -> str:
        return version_of(self._live) or ""


def _instance_header() -> list[tuple[str, str]]:
    """Lets whoever started this process know its answers from those of another process on the same port."""
    instance = os.environ.get("ULORA_INSTANCE")
    return [("X-Ulora-Instance", instance)] if instance else []


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def _handling_signals(server: HttpServer) -> Iterator[None]:
    """Let SIGTERM, which orchestrators send, end the server as Ctrl-C does, so that the caller can clean up.

    This also covers the time before uvicorn handles signals, and the signal that it raises again at its end. SIGHUP
    lets the tokens be read again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        server.should_exit = True

    def look(number: int, frame: object) -> None:
        server.read_files_again()

    before = {number: signal.signal(number, how) for number, how in ((signal.SIGTERM, end), (signal.SIGHUP, look))}
    try:
        yield
    finally:
        for number, how in before.items():
            signal.signal(number, how)

"""A replica that answers over HTTP on its real server, in this process."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx

from registry.serving.follow import Live
from registry.serving.http.options import HttpOptions
from registry.serving.http.server import HttpServer
from registry.serving.listening import listen
from tests.support.echo_releases import wait_until

NONE_SURPLUS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=None)
"""httpcore 1.0.9 closes a surplus or expired connection that it has just given to another thread's request."""


@contextmanager
def running(
    live: Live, options: HttpOptions | None = None, trust: ssl.SSLContext | bool = True
) -> Iterator[httpx.Client]:
    """A server on a free port, and a client for it that trusts `trust`."""
    with (
        running_server(live, options) as (_, url),
        httpx.Client(base_url=url, timeout=300, verify=trust, limits=NONE_SURPLUS) as client,
    ):
        yield client


@contextmanager
def running_server(live: Live, options: HttpOptions | None = None) -> Iterator[tuple[HttpServer, str]]:
    """A server on a free port, and its URL."""
    options = replace(options or HttpOptions(), port=0)
    urls: list[str] = []
    with listen(options.host, options.port) as listener:
        server = HttpServer(live, options, listener, urls.append)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: urls or not thread.is_alive())
            yield server, urls[0]
        finally:
            server.should_exit = server.force_exit = True
            thread.join()

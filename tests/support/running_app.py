"""The HTTP application of a replica on a real server, in this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from registry.serving.follow import Live
from registry.serving.http.app import create_app
from registry.serving.http.options import HttpOptions
from tests.support.echo_releases import wait_until


@contextmanager
def running(live: Live, options: HttpOptions | None = None) -> Iterator[httpx.Client]:
    """The application on a free port, and a client for it."""
    server = uvicorn.Server(uvicorn.Config(create_app(live, options), log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=300) as client:
                wait_until(lambda: server.started)
                yield client
        finally:
            server.should_exit = True
            thread.join()

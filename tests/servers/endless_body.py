"""A broken S3 server: it answers every GET with a body that never ends, without a Content-Length."""

from __future__ import annotations

from contextlib import suppress
from http.server import BaseHTTPRequestHandler

from tests.servers.loopback import Loopback

_CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"


class EndlessServer(Loopback):
    """A context manager; `url` is its address, `sent` the number of bytes that it has sent."""

    def __init__(self) -> None:
        self.sent = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.send_header("ETag", '"x"')
                self.send_header("Last-Modified", "Sat, 21 Nov 2026 12:00:00 GMT")
                self.end_headers()
                with suppress(OSError):
                    while True:
                        self.wfile.write(_CHUNK)
                        outer.sent += len(_CHUNK)

            def log_message(self, format: str, *args: object) -> None:
                """Print nothing."""

        super().__init__(Handler)

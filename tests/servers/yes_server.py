"""A server that answers 200 to every request, for the port that another server of a test has chosen."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler

from tests.servers.loopback import Loopback


class YesServer(Loopback):
    """A context manager on a given port; `requests` are the paths of its requests."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[str] = []
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                requests.append(self.path)
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"OK")

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

            def log_message(self, format: str, *args: object) -> None:
                """Print nothing."""

        super().__init__(Handler, port)

"""An S3 server that ignores `If-None-Match`, as several S3-compatible servers do.

It keeps objects in memory, checks no signature, and implements the few calls that a store makes.
"""

from __future__ import annotations

import base64
import hashlib
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.servers.loopback import Loopback


class ForgetfulServer(Loopback):
    """A context manager; `url` is its address, `objects` what it holds, by `/bucket/key`."""

    def __init__(self, port: int = 0) -> None:
        self.objects: dict[str, bytes] = {}
        super().__init__(_handler_of(self.objects), port)


def _handler_of(objects: dict[str, bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            objects[self._key] = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer(200)

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            if "list-type" in query:
                self._list(query["prefix"][0])
            elif self._key in objects:
                self._answer(200, objects[self._key])
            else:
                self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

        def do_HEAD(self) -> None:
            self._answer(200 if self._key in objects else 404, objects.get(self._key, b""))

        def do_DELETE(self) -> None:
            objects.pop(self._key, None)
            self._answer(204)

        @property
        def _key(self) -> str:
            return unquote(urlsplit(self.path).path)

        def _list(self, prefix: str) -> None:
            bucket = self._key.rstrip("/") + "/"
            keys = sorted(key.removeprefix(bucket) for key in objects if key.startswith(bucket + prefix))
            sizes = {key: len(objects[bucket + key]) for key in keys}
            entries = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size></Contents>" for key, size in sizes.items()
            )
            self._answer(200, f"<ListBucketResult>{entries}</ListBucketResult>".encode())

        def _answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0" if status == 204 else str(len(body)))
            digest = hashlib.sha256(body)
            self.send_header("ETag", f'"{digest.hexdigest()}"')
            self.send_header("x-amz-checksum-sha256", base64.b64encode(digest.digest()).decode())
            self.send_header("Last-Modified", formatdate(usegmt=True))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    return Handler

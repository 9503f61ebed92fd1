"""S3 servers that ignore `If-None-Match`: one that always does, and a real one that stops honouring it."""

from __future__ import annotations

import base64
import hashlib
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from registry.store.objects import ObjectStore
from tests.servers.loopback import Loopback
from tests.servers.proxy import Exchange, Proxy, Reply


class IgnoreConditions:
    """A fault of a proxy before a real server: what is written is written whatever is there, as by a server that was
    replaced by one without conditional writes. All else stays as it is."""

    def __init__(self, store: ObjectStore) -> None:
        """Args:
        store: its own way to that server, not through the proxy.
        """
        self._client = store._client.transfers

    def __call__(self, exchange: Exchange) -> None:
        bucket, _, key = unquote(urlsplit(exchange.path).path).lstrip("/").partition("/")
        checksum = base64.b64encode(hashlib.sha256(exchange.body).digest()).decode()
        done = self._client.put_object(Bucket=bucket, Key=key, Body=exchange.body, ChecksumSHA256=checksum)
        exchange.send(Reply(200, [("ETag", done["ETag"])], b""))

    def begin(self, proxy: Proxy, containing: str = "") -> None:
        """Ignore conditions from now on, of keys that contain a text."""
        proxy.next(self, method="PUT", containing=containing, times=10**9)


class ForgetfulServer(Loopback):
    """A server that always does. It keeps objects in memory, checks no signature, and implements the few calls that a
    store makes. A context manager; `url` is its address, `objects` what it holds, by `/bucket/key`."""

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
            said = f"<Name>{escape(bucket.strip('/'))}</Name><Prefix>{escape(prefix)}</Prefix>"
            listing = f"<ListBucketResult>{said}<IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
            self._answer(200, listing.encode())

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

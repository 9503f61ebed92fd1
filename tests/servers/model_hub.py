"""A small hub of models on loopback: Hugging Face's client asks it for `/ORG/NAME/resolve/REVISION/FILE`.

It refuses requests as the real one does, by status and `X-Error-Code`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

from tests.servers.loopback import Loopback

COMMIT = "c0ffee" + 34 * "0"
MAIN = "main"


@dataclass
class Hub:
    """Repositories by name, each the folder of its files; `refused` are those that answer (status, code) instead.

    Use it as a context manager; `requests` are those that it answered with a file's bytes.
    """

    repositories: dict[str, Path]
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

            def _answer(self, *, with_body: bool) -> None:
                status, headers, body = hub._find(self.path)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if with_body:
                    if status == 200:
                        hub.requests.append(self.path)
                    self.wfile.write(body)

        self._loopback = Loopback(Handler).__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._loopback.__exit__()

    @property
    def url(self) -> str:
        """Its address, for `HF_ENDPOINT`."""
        return self._loopback.url

    def _find(self, path: str) -> tuple[int, dict[str, str], bytes]:
        repository, _, rest = path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if repository in self.refused:
            status, code = self.refused[repository]
            return status, {"X-Error-Code": code} if code else {}, b""
        if repository not in self.repositories:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if revision not in (MAIN, COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        file = self.repositories[repository] / name
        if not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        body = file.read_bytes()
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}, body

"""Ask a replica over HTTP: bounded answers, a deadline for each request, and no redirects."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from registry.errors import BadInput, ReplicaDenied, ReplicaUnreachable, first_line
from registry.formats.addresses import has_host, without_password
from registry.formats.header_values import check_header
from registry.parallel import within_or_ended
from registry.usecases.version_test_options import TOKEN

SECONDS = 30.0
"""For one request, with its answer."""
MAX_ANSWER = 1024 * 1024
"""Bytes of an answer that is read."""
_REFUSED = (401, 403)
_IMAGE = "image/png"
"""What bodies are said to be; a replica looks at their bytes."""
_IDLE = 2.0
"""Seconds after which a connection is opened anew: a server may close an idle one."""


@dataclass(frozen=True)
class ReplicaAnswer:
    """What came back: the status, the body, and the seconds until it was whole."""

    status: int
    body: bytes
    seconds: float

    @property
    def document(self) -> dict[str, Any]:
        """The body as a JSON object; empty for anything else."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def problem(self) -> str:
        """What a status other than 200 says, in a few words."""
        said = self.document
        what = f": {said['error']}: {said.get('message', '')}" if isinstance(said.get("error"), str) else ""
        return f"status {self.status}{what}"[:300]


class ReplicaClient:
    """One connection to a replica, kept open between requests. For one thread at a time."""

    def __init__(self, url: str, token: str = "", seconds: float = SECONDS) -> None:
        """Raises: BadInput, BadSetting: the URL or the token is invalid."""
        self.url, self._seconds = check_url(url), seconds
        parts = urlsplit(self.url)
        self._folder = parts.path
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.netloc, timeout=seconds)
        self._used = time.monotonic()
        check_header(TOKEN, token)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._connection.close()

    def ask(self, method: str, path: str, body: bytes | None = None) -> ReplicaAnswer:
        """Ask once; the body is an image.

        Raises:
            ReplicaUnreachable: there is no whole answer in time.
            ReplicaDenied: it asks for a token, or refuses the one that it gets.
        """
        headers = {"Content-Type": _IMAGE} if body is not None else {}
        answer = self._ask(method, path, body, headers)
        if answer.status in _REFUSED:
            raise self._denied(f"{method} {path}", answer)
        return answer

    def announce(self, path: str, size: int) -> ReplicaAnswer | None:
        """Ask whether a body of so many bytes would be taken, without sending it; None if that is not said in time."""
        headers = {"Content-Length": str(size), "Content-Type": _IMAGE, "Expect": "100-continue"}
        try:
            return self._ask("POST", path, None, headers)
        except ReplicaUnreachable:
            return None
        finally:
            self.close()  # a body is still owed on this connection

    def _denied(self, what: str, answer: ReplicaAnswer) -> ReplicaDenied:
        if not self._headers:
            return ReplicaDenied(f"{self.url} asks for a token for {what}", hint=f"put one into {TOKEN}")
        return ReplicaDenied(
            f"{self.url} refuses the token for {what}: {answer.problem}",
            hint=f"is the token in {TOKEN} one of this replica's, with the scope predict?",
        )

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> ReplicaAnswer:
        if time.monotonic() - self._used > _IDLE:
            self.close()
        try:
            return within_or_ended(self._seconds, partial(self._answer, method, path, body, headers), "ulora-test")
        except (OSError, http.client.HTTPException, ValueError) as error:  # a TimeoutError is an OSError
            self.close()
            raise ReplicaUnreachable(
                f"{self.url} does not answer {method} {path}: {type(error).__name__}: {first_line(error)}",
                hint="is it the URL of a replica, and can it be reached from here?",
            ) from error
        finally:
            self._used = time.monotonic()

    def _answer(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> ReplicaAnswer:
        began = time.perf_counter()
        self._connection.request(method, self._folder + path, body, {**self._headers, **headers})
        reply = self._connection.getresponse()
        found = reply.read(MAX_ANSWER + 1)
        if len(found) > MAX_ANSWER:
            raise ValueError(f"the answer has more than {MAX_ANSWER} bytes")
        return ReplicaAnswer(reply.status, found, time.perf_counter() - began)


def check_url(url: str) -> str:
    """The URL of a replica, without a slash at its end.

    Raises:
        BadInput: it is none, or holds a password, which would be kept in evidence.
    """
    shown = without_password(url)[:200]
    if not has_host(url) or not url.startswith(("http://", "https://")):
        raise BadInput(f"{shown!r} is not an http address", hint="for example http://localhost:8000")
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise BadInput(
            f"{shown!r} has a password, a query or a fragment", hint=f"{TOKEN} holds the token for a replica"
        )
    return url.rstrip("/")

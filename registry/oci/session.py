"""Requests to one OCI registry: bounded in size and time, with credentials that go to nobody else.

The package `oras` finds the credentials (docker's configuration and its helpers) and gets tokens. Its own requests are
not used: they have no time limit, read any answer into memory, send a token to whatever host an upload is sent to, and
wait for two minutes after a failure. What it asks for a token goes through the same adapter as ours.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import oras.auth.utils
import oras.container
import oras.provider
import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from registry.errors import BadSetting, MissingBlob, OciDenied, OciUnreachable, first_line
from registry.formats.addresses import without_passwords
from registry.formats.bounded import joined
from registry.formats.header_values import check_header, header_problem
from registry.oci.credentials import OciCredentials
from registry.oci.reference import OciReference, is_loopback
from registry.parallel import within_or_ended

SECONDS = 60.0
"""For one request with its answer, and for one piece of a longer one."""
MAX_ANSWER = 1024 * 1024
"""Bytes of an answer that is not a manifest or a blob."""
PIECE = 1024 * 1024
_SLOWEST = 64 * 1024
"""Bytes a second at which an upload may take longer than SECONDS."""
_CONNECT, _READ = 10.0, 300.0
"""Seconds until a connection is made, and of silence on it: only to end a thread that nobody waits for any longer."""
_TRIES = 3
_PAUSE = 0.5
_MAX_REDIRECTS = 5
_MAX_CALLS = 16
"""Connections that are kept open."""
_REDIRECTS = (301, 302, 303, 307, 308)
_BUSY = (429, 500, 502, 503, 504)
_REFUSED = (401, 403)
_SOCKET_ERRORS = (requests.RequestException, HTTPError, OSError)

Result = TypeVar("Result")
Body = Callable[[], Any]
"""Opens the body of a request, anew for each try."""


@dataclass(frozen=True)
class OciAnswer:
    """What a registry answered, read as a whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class OciSession:
    """Asks one registry. Threads may share it."""

    def __init__(self, reference: OciReference, credentials: OciCredentials) -> None:
        """Raises: BadSetting: docker's configuration can't be read, or what it has can't be sent."""
        self._reference, self._credentials = reference, credentials
        client: Any = oras.provider.Registry(hostname=reference.registry, insecure=reference.is_plain)
        self._http: requests.Session = client.session
        self._http.auth = _leave_alone
        for scheme in ("https://", "http://"):
            self._http.mount(scheme, _BoundedAdapter(reference))
        self._auth: Any = client.auth
        self._load_credentials()
        self._lock = threading.Lock()
        self._authorization = ""

    def ask(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: Body | None = None,
        size: int = 0, limit: int = MAX_ANSWER,
    ) -> OciAnswer:  # fmt: skip
        """Ask, a few times if the registry is busy or a connection breaks, and read the answer.

        Args:
            path: below the registry's address, or an address there.
            size: bytes of the body.
            limit: bytes of the answer that are read at most.

        Raises:
            OciUnreachable: there is no whole answer in time, it is too long, or leads to where nothing is sent.
            OciDenied: the registry refuses the credentials, or wants some.
        """
        seconds = SECONDS + size / _SLOWEST
        for attempt in range(1, _TRIES + 1):
            try:
                answer = self._within(
                    seconds, f"{method} {path}", partial(self._ask, method, path, headers or {}, body, limit)
                )
            except _Broken as broken:
                if attempt == _TRIES:
                    raise broken.error from broken
            else:
                if answer.status in _REFUSED:
                    raise self._denied(f"{method} {_shown(path)}", answer.status)
                if answer.status not in _BUSY or attempt == _TRIES:
                    return answer
            time.sleep(_PAUSE * attempt)
        raise AssertionError("the last try returns or raises")

    def upload(self, path: str, body: Body, size: int) -> OciAnswer:
        """PUT the bytes of a blob, once: after a failure the upload has to be begun anew.

        Raises:
            OciUnreachable, OciDenied: see `ask`.
        """
        headers = {"Content-Type": "application/octet-stream"}
        what = f"PUT {path}"
        try:
            answer = self._within(
                SECONDS + size / _SLOWEST, what, partial(self._ask, "PUT", path, headers, body, MAX_ANSWER)
            )
        except _Broken as broken:
            raise broken.error from broken
        if answer.status in _REFUSED:
            raise self._denied(_shown(what), answer.status)
        return answer

    def stream(self, path: str, size: int) -> Iterator[bytes]:
        """The body of an answer in pieces, `size` bytes at most, each of them within SECONDS.

        Raises:
            MissingBlob: there is nothing at this path.
            OciUnreachable, OciDenied: see `ask`; or it is longer.
        """
        what, left = f"GET {path}", size
        with self._opened(what, partial(self._exchange, "GET", path, {}, None)) as response:
            self._check_begin(response, path)
            read = partial(response.raw.read, decode_content=False)
            while True:
                try:
                    piece = self._within(SECONDS, what, partial(read, min(PIECE, left + 1)))
                except _Broken as broken:
                    raise broken.error from broken
                left -= len(piece)
                if left < 0:
                    raise OciUnreachable(f"{self._reference.origin} sends more than {size} bytes to {what}")
                if not piece:
                    return
                yield piece

    def _check_begin(self, response: requests.Response, path: str) -> None:
        """Check that an answer has what was asked for."""
        status = response.status_code
        if status in _REFUSED:
            raise self._denied(f"GET {path}", status)
        if status == 404:
            raise MissingBlob(f"{self._reference.origin} has nothing at {path}")
        if status != 200:
            raise OciUnreachable(
                f"{self._reference.origin} answers {status} to GET {path}", hint="run the same command again"
            )

    def _opened(self, what: str, act: Callable[[], requests.Response]) -> requests.Response:
        """Begin to read; a connection that broke before it answered is opened again."""
        for attempt in range(1, _TRIES + 1):
            try:
                return self._within(SECONDS, what, act)
            except _Broken as broken:
                if attempt == _TRIES:
                    raise broken.error from broken
                time.sleep(_PAUSE * attempt)
        raise AssertionError("the last try returns or raises")

    def _within(self, seconds: float, what: str, act: Callable[[], Result]) -> Result:
        """What `act` returns within so many seconds.

        Raises:
            _Broken: the connection broke; it may be tried again.
            OciUnreachable: it took too long.
        """
        try:
            return within_or_ended(seconds, act, "ulora-oci")
        except TimeoutError as error:
            raise self._unreachable(what, f"it took longer than {seconds:.0f} s") from error
        except _RefusedAddress as error:
            raise self._unreachable(what, str(error)) from error
        except _SOCKET_ERRORS as error:
            raise _Broken(self._unreachable(what, f"{type(error).__name__}: {first_line(error, 200)}")) from error

    def _ask(self, method: str, path: str, headers: Mapping[str, str], body: Body | None, limit: int) -> OciAnswer:
        with self._exchange(method, path, headers, body) as response:
            found = b"" if method == "HEAD" else joined(_pieces(response), limit)
            if found is None:
                raise _RefusedAddress(f"the answer has more than {limit} bytes")
            return OciAnswer(response.status_code, dict(_lowered(response.headers)), found)

    def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: Body | None) -> requests.Response:
        """Send a request, with a new token where the registry asks for one."""
        url = urljoin(f"{self._reference.origin}/", path)
        if not self._is_ours(url):
            raise _RefusedAddress(f"it leads to another host, {_shown(url)}")
        for attempt in range(1, _TRIES + 1):
            used = self._authorization
            response = self._follow(method, url, headers, body, used)
            is_asked = response.status_code in _REFUSED and "www-authenticate" in response.headers
            is_last = attempt == _TRIES or not is_asked or not self._is_ours(str(response.url))
            if is_last or not self._authenticate(response, used):
                return response
            response.close()
        raise AssertionError("the last try returns")

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None, authorization: str
    ) -> requests.Response:
        """Send a request, and where it only reads go to where it is redirected; credentials stay here."""
        for _ in range(_MAX_REDIRECTS + 1):
            ours = {"Authorization": authorization} if authorization and self._is_ours(url) else {}
            response = self._http.request(
                method, url, headers={"Accept-Encoding": "identity", **headers, **ours}, data=body() if body else None,
                stream=True, allow_redirects=False,
            )  # fmt: skip
            target = response.headers.get("location") if response.status_code in _REDIRECTS else None
            if target is None:
                return response
            response.close()
            if method not in ("GET", "HEAD"):
                raise _RefusedAddress(f"it is redirected to {_shown(urljoin(url, target))}")
            url = urljoin(url, target)
        raise _RefusedAddress(f"it is redirected more than {_MAX_REDIRECTS} times")

    def _is_ours(self, url: str) -> bool:
        mine, other = urlsplit(self._reference.origin), urlsplit(url)
        return (mine.scheme, mine.netloc.lower()) == (other.scheme, other.netloc.lower())

    # --- credentials -------------------------------------------------------------------------------------------------

    def _load_credentials(self) -> None:
        if self._credentials.is_given:
            self._auth.set_basic_auth(self._credentials.username, self._credentials.password)
            return
        container = oras.container.Container(self._reference.repository)
        container.registry = self._reference.registry
        try:
            within_or_ended(SECONDS, lambda: self._auth.load_configs(container), "ulora-oci")
        except Exception as error:  # what it holds is not shown
            raise BadSetting(
                f"the credentials in ~/.docker/config.json can't be read ({type(error).__name__})",
                hint="`docker login` writes it; or set ULORA_OCI_USERNAME and ULORA_OCI_PASSWORD",
            ) from None
        where = f"the `auth` of {self._reference.registry} in ~/.docker/config.json"
        hint = f"`docker login {self._reference.registry}` writes it anew (`base64 -w 0` writes no line breaks)"
        check_header(where, str(getattr(self._auth, "_basic_auth", "")), hint=hint)

    def _authenticate(self, response: requests.Response, used: str) -> bool:
        """Get other credentials than `used` for what a registry asks for; whether there are some."""
        with self._lock:
            if self._authorization != used:
                return True  # another thread has just got them
            found = self._answer_to(response)
            is_new = bool(found) and found != used
            self._authorization = found if is_new else used
            return is_new

    def _answer_to(self, response: requests.Response) -> str:
        challenge = response.headers["www-authenticate"].lower()
        if challenge.startswith("basic"):
            known = getattr(self._auth, "_basic_auth", "")
            return f"Basic {known}" if known else ""
        try:
            headers, is_changed = self._auth.authenticate_request(response, {}, refresh=True)
        except (_RefusedAddress, *_SOCKET_ERRORS):
            raise
        except Exception as error:  # of whatever a token server answers
            raise _RefusedAddress(f"its token server's answer can't be read ({type(error).__name__})") from None
        found = str(headers["Authorization"]) if is_changed else ""
        if problem := header_problem(found):
            raise _RefusedAddress(f"its token server's answer is a token that {problem}")
        return found

    def _denied(self, what: str, status: int) -> OciDenied:
        known = hasattr(self._auth, "_basic_auth")
        return OciDenied(
            f"{self._reference.origin} answers {status} to {what}"
            + ("" if known else f": there are no credentials for {self._reference.registry}"),
            hint=f"`docker login {self._reference.registry}`, or ULORA_OCI_USERNAME and ULORA_OCI_PASSWORD; do they "
            "allow this repository?",
        )

    def _unreachable(self, what: str, problem: str) -> OciUnreachable:
        return OciUnreachable(
            f"{self._reference.origin} does not answer {_shown(what)} as a registry: {without_passwords(problem)}",
            hint="run the same command again: what has arrived is not sent again"
            + ("" if self._reference.is_plain else "; --plain-http if it has no TLS"),
        )


class _RefusedAddress(Exception):
    """An address that nothing is sent to, or an answer that is not read on."""


class _Broken(Exception):
    """A connection broke; `error` is what to say of it."""

    def __init__(self, error: OciUnreachable) -> None:
        super().__init__(str(error))
        self.error = error


class _BoundedAdapter(HTTPAdapter):
    """Sends the requests of this module and of oras: over TLS, within time limits; reads MAX_ANSWER bytes at most."""

    def __init__(self, reference: OciReference) -> None:
        super().__init__(pool_maxsize=_MAX_CALLS)
        self._reference = reference

    def send(self, request: requests.PreparedRequest, stream: bool = False, *_: Any, **options: Any) -> Any:
        """The answer to a request. Time limits are our own.

        Raises:
            _RefusedAddress: it would be sent without TLS to another place than the registry.
        """
        self._check(str(request.url))
        answer = super().send(request, **{**options, "stream": True, "timeout": (_CONNECT, _READ)})
        if not stream:
            body = joined(_pieces(answer), MAX_ANSWER)
            if body is None:
                raise _RefusedAddress(f"an answer has more than {MAX_ANSWER} bytes")
            answer._content = body
        return answer

    def _check(self, url: str) -> None:
        parts = urlsplit(url)
        is_ours = parts.netloc.lower() == self._reference.registry.lower()
        is_near = is_loopback(self._reference.registry) and is_loopback(parts.netloc)
        if parts.scheme != "https" and not (self._reference.is_plain and (is_ours or is_near)):
            raise _RefusedAddress(f"it leads to {_shown(url)}, which has no TLS")


def _leave_alone(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Authentication that adds nothing: without one, requests looks into ~/.netrc."""
    return request


def _pieces(response: requests.Response) -> Iterator[bytes]:
    while piece := response.raw.read(64 * 1024, decode_content=False):
        yield piece


def _lowered(headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in headers.items():
        yield name.lower(), value


def _shown(url: str) -> str:
    """An address without its query, which may hold a signature, and without characters of a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in without_passwords(url).partition("?")[0][:200])

"""Send a message to an address of the settings: within a deadline, to where the address leads and nowhere else.

The name is resolved once, and what it resolves to is checked and connected to, so that no second answer of the name
server leads elsewhere. Addresses of a link, where clouds give credentials to whoever asks, are refused. Redirects are
not followed, proxies not used, and of a reply no more is read than its head and the beginning of a complaint.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from registry.errors import BadSetting, first_line

MAX_HEAD = 16 * 1024
"""Bytes of a reply that are read at most."""
_MAX_COMPLAINT, _COMPLAINT_SECONDS = 1024, 1.0
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r]")
_RETRY_AFTER = re.compile(rb"\r\nretry-after:[ \t]*([0-9]{1,6})[ \t]*\r\n", re.IGNORECASE)
_END = b"\r\n\r\n"
_URL = re.compile(r"[!-~]{1,4096}")
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""NAT64: the last four bytes are an IPv4 address."""
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "255.255.255.255"),
    )
)
"""Where clouds serve credentials or settings beside 169.254.169.254, and everybody at once."""

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Places = Sequence[tuple[socket.AddressFamily, tuple[str, int]]]
"""What a name leads to."""


class RefusedAddress(ValueError):
    """A name that leads to where nothing is sent."""


@dataclass(frozen=True)
class Webhook:
    """An address that messages are sent to.

    Attributes:
        scheme: `http` or `https`.
        target: path and query, which often hold a secret.
    """

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, address: str) -> Self:
        """Read an address.

        Raises:
            BadSetting: it is none of http or https, has a user or no host; the message does not repeat its secrets.
        """
        try:
            parts = urlsplit(address)
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        except (ValueError, KeyError) as error:
            raise _bad("it is not http:// or https://") from error
        if not parts.hostname or not _URL.fullmatch(address):
            raise _bad("it has no host, or characters that an address does not have")
        if "@" in parts.netloc:
            raise _bad("it has a user or a password in it")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, parts.hostname, port, target)

    def __str__(self) -> str:
        return f"{self.scheme}://{self._authority}/…"

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"

    def head(self, size: int, headers: Mapping[str, str]) -> bytes:
        """The head of a request with a body of so many bytes."""
        fields = {"Host": self._authority, "Content-Length": str(size), "Connection": "close", **headers}
        lines = [f"POST {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode("ascii")


def _bad(problem: str) -> BadSetting:
    return BadSetting(
        f"an address to notify is invalid: {problem}",
        hint="see [notify] in ulora.toml, ULORA_NOTIFY_JSON, ULORA_NOTIFY_SLACK and ULORA_NOTIFY_TEAMS",
    )


@dataclass(frozen=True)
class Attempt:
    """How sending a message went.

    Attributes:
        problem: empty if it was taken.
        again: whether it may go better later.
        wait: seconds that the server asks to wait before.
    """

    problem: str = ""
    again: bool = False
    wait: float = 0.0


def post(hook: Webhook, body: bytes, headers: Mapping[str, str], seconds: float) -> Attempt:
    """Send a message once. It takes so many seconds at most, after the name was resolved."""
    try:
        places = _resolve(hook)
        request = hook.head(len(body), headers) + body
        return _judged(_exchange(hook, places, request, time.monotonic() + seconds))
    except RefusedAddress as error:
        return Attempt(str(error))
    except (OSError, ValueError) as error:  # ssl's and socket's own, and names that can't be encoded
        return Attempt(first_line(error, 200), again=True)


def _resolve(hook: Webhook) -> Places:
    """What a name leads to.

    Raises:
        RefusedAddress: one of the addresses is of a link, of everybody or of nobody.
        OSError: it leads nowhere.
    """
    found = socket.getaddrinfo(hook.host, hook.port, type=socket.SOCK_STREAM)
    places = [(family, (str(place[0]), hook.port)) for family, _, _, _, place in found]
    for _, (text, _) in places:
        if _is_refused(ipaddress.ip_address(text.partition("%")[0])):
            raise RefusedAddress(f"{hook.host} leads to {text}, where nothing is sent")
    return places


def _is_refused(address: IpAddress) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_refused(inner)
    return address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA


def _exchange(hook: Webhook, places: Places, request: bytes, deadline: float) -> bytes:
    """Send a request, and return the head of the reply, and the beginning of what comes after it if it is a complaint.

    Raises:
        OSError: it can't be reached, or does not answer in time.
    """
    with _connect(hook, places, deadline) as connection:
        connection.settimeout(_left(deadline))
        connection.sendall(request)
        head = b""
        while _END not in head and len(head) < MAX_HEAD:
            connection.settimeout(_left(deadline))
            received = connection.recv(4096)
            if not received:
                raise OSError("it ended its reply before the end of the head")
            head += received
        return head if head[9:10] == b"2" else head + _complaint(connection, deadline)


def _complaint(connection: socket.socket, deadline: float) -> bytes:
    """The beginning of a body, as far as it comes soon."""
    said = b""
    with suppress(OSError):
        until = min(deadline, time.monotonic() + _COMPLAINT_SECONDS)
        while len(said) < _MAX_COMPLAINT:
            connection.settimeout(_left(until))
            received = connection.recv(_MAX_COMPLAINT)
            if not received:
                break
            said += received
    return said


def _connect(hook: Webhook, places: Places, deadline: float) -> socket.socket:
    problem = OSError(f"{hook.host} leads nowhere")
    for family, place in places:
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(_left(deadline))
            connection.connect(place)
            if hook.scheme == "https":
                return ssl.create_default_context().wrap_socket(connection, server_hostname=hook.host)
            return connection
        except OSError as error:
            connection.close()
            problem = error
    raise problem


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("it did not answer in time")
    return left


def _judged(head: bytes) -> Attempt:
    found = _STATUS.match(head)
    if not found:
        return Attempt("its answer is not HTTP", again=True)
    status = int(found[1])
    if 200 <= status < 300:
        return Attempt()
    if 300 <= status < 400:
        return Attempt(f"it redirects (HTTP {status}), which is not followed: set the address that it leads to")
    asked = _RETRY_AFTER.search(head)
    told = "".join(letter for letter in head.partition(_END)[2].decode("utf-8", "replace") if letter.isprintable())
    problem = f"HTTP {status}" + (f": {told[:200]}" if told else "")
    return Attempt(problem, again=status in (408, 425, 429) or status >= 500, wait=float(asked[1]) if asked else 0.0)

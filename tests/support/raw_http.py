"""HTTP byte by byte: for clients that no library would be."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest


@dataclass(frozen=True)
class RawAnswer:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


def connect(url: str, **buffers: int) -> socket.socket:
    """A connection to a server, on which nothing was sent; `buffers` are options such as SO_RCVBUF."""
    parts = urlsplit(url)
    connection = socket.socket()
    for name, size in buffers.items():
        connection.setsockopt(socket.SOL_SOCKET, getattr(socket, name), size)
    connection.settimeout(300)
    connection.connect((parts.hostname, parts.port))
    return connection


def post(body: bytes = b"", *headers: str, path: str = "/predict") -> bytes:
    """The head of a request for an image, with what there is of its body."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: image/png", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_answer(connection: socket.socket, *, has_body: bool = True) -> RawAnswer:
    """Read one answer, and not a byte more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            pytest.fail(f"the connection was closed after {head!r}")
        head += byte
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = b""
    while has_body and len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(int(headers["content-length"]) - len(body))
    return RawAnswer(int(first.split(" ")[1]), headers, body)


def is_closed(connection: socket.socket) -> bool:
    """Whether the server closes the connection, with nothing more to read. Waits for that."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True

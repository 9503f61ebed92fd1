"""What the client of `ulora test --deployed` takes from a server that may be anything."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler

import pytest

from registry.errors import BadInput, ReplicaDenied, ReplicaUnreachable
from registry.usecases.replica_client import MAX_ANSWER, ReplicaClient, check_url
from tests.servers.loopback import Loopback


class Handler(BaseHTTPRequestHandler):
    """Answers as the path says; keeps what it was sent."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str]]
    ended: threading.Event

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization", "")))
        match self.path.rpartition("/")[2]:
            case "away":
                self._reply(302, b"", {"Location": "/echo"})
            case "closed":
                self._reply(401, json.dumps({"error": "Unauthorized", "message": "no token"}).encode())
            case "long":
                with suppress(OSError):
                    self._reply(200, b" " * (MAX_ANSWER + 1))
            case "slow":
                self.send_response(200)
                self.send_header("Content-Length", "1000000")
                self.end_headers()
                with suppress(OSError):
                    while not self.ended.wait(0.02):
                        self.wfile.write(b" ")
            case "list":
                self._reply(200, b"[1]")
            case "deep":
                self._reply(200, b"[" * 100_000)
            case _:
                self._reply(200, b'{"version": "v1.0.0"}')

    def do_POST(self) -> None:
        if self.headers.get("Expect"):
            self.send_error(413)
            self.close_connection = True
            return
        self._reply(200, json.dumps({"got": len(self.rfile.read(int(self.headers["Content-Length"])))}).encode())

    def handle_expect_100(self) -> bool:
        return True

    def log_message(self, *_: object) -> None: ...

    def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ((headers or {}) | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[tuple[Loopback, type[Handler]]]:
    kept = type("KeptHandler", (Handler,), {"seen": [], "ended": threading.Event()})
    with Loopback(kept) as loopback:
        yield loopback, kept
        kept.ended.set()


def test_answers_are_read_below_the_folder_of_the_url(server: tuple[Loopback, type[Handler]]) -> None:
    loopback, handler = server
    with closing(ReplicaClient(f"{loopback.url}/inner/", "secret")) as client:
        assert client.ask("GET", "/version").document == {"version": "v1.0.0"}
        assert client.ask("POST", "/predict", b"12345").document == {"got": 5}
    assert handler.seen == [("/inner/version", "Bearer secret")]


def test_a_redirect_is_an_answer_and_not_followed(server: tuple[Loopback, type[Handler]]) -> None:
    loopback, handler = server
    with closing(ReplicaClient(loopback.url)) as client:
        assert client.ask("GET", "/away").status == 302
    assert [path for path, _ in handler.seen] == ["/away"]


@pytest.mark.parametrize("path", ["/list", "/deep"])
def test_what_is_no_object_is_an_empty_one(server: tuple[Loopback, type[Handler]], path: str) -> None:
    with closing(ReplicaClient(server[0].url)) as client:
        assert client.ask("GET", path).document == {}


@pytest.mark.parametrize(
    ("path", "seconds", "says"),
    [("/long", 300, "more than"), ("/slow", 0.3, "TimeoutError")],
)
def test_no_answer_without_end_is_read(
    server: tuple[Loopback, type[Handler]], path: str, seconds: float, says: str
) -> None:
    with closing(ReplicaClient(server[0].url, seconds=seconds)) as client:
        with pytest.raises(ReplicaUnreachable, match=says):
            client.ask("GET", path)
        if seconds > 1:
            assert client.ask("GET", "/version").status == 200, "the next request has a connection of its own"


@pytest.mark.parametrize(
    ("token", "says"),
    [("", "asks for a token for GET /closed"), ("secret", "refuses the token for GET /closed: status")],
)
def test_a_token_that_is_missing_or_not_good_is_told(
    server: tuple[Loopback, type[Handler]], token: str, says: str
) -> None:
    with closing(ReplicaClient(server[0].url, token)) as client, pytest.raises(ReplicaDenied, match=says) as denied:
        client.ask("GET", "/closed")
    assert "secret" not in f"{denied.value}{denied.value.hint}"


def test_a_large_body_is_announced_and_not_sent(server: tuple[Loopback, type[Handler]]) -> None:
    with closing(ReplicaClient(server[0].url)) as client:
        refused = client.announce("/predict", 1 << 40)
        assert refused
        assert refused.status == 413
        assert client.ask("POST", "/predict", b"123").document == {"got": 3}


def test_where_nothing_listens_it_says_so(dead_address: str) -> None:
    with closing(ReplicaClient(dead_address)) as client:
        with pytest.raises(ReplicaUnreachable, match=r"does not answer GET /version: ConnectionRefusedError"):
            client.ask("GET", "/version")
        assert client.announce("/predict", 1) is None


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "ftp://host", "http://", "http://a b", "http://user:secret@host", "http://host?a=1",
     "http://host/#x", "http://host:99999", "file:///etc/passwd"],
)  # fmt: skip
def test_only_plain_http_addresses_are_taken(url: str) -> None:
    with pytest.raises(BadInput) as refused:
        check_url(url)
    assert "secret" not in f"{refused.value}{refused.value.hint}"


@pytest.mark.parametrize("token", ["a\nb: c", "\u00e9", "a\x00"])
def test_a_token_that_no_header_holds_is_refused(token: str) -> None:
    with pytest.raises(BadInput, match=r"^ULORA_TOKEN "):
        ReplicaClient("http://host", token)

"""Webhooks over real sockets: what is sent, and to where nothing is."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from registry.errors import BadSetting
from registry.guard.webhook import MAX_HEAD, Attempt, Webhook, post
from tests.servers.hook_receiver import HookReceiver, RawReceiver

LONG = 60.0
SHORT = 0.3


def sent_to(url: str, seconds: float = LONG) -> Attempt:
    return post(Webhook.parse(url), b"{}", {"X-Mine": "1"}, seconds)


def test_a_message_arrives_with_its_path_headers_and_body() -> None:
    with HookReceiver(204) as server:
        assert sent_to(f"{server.url}/services/T0?key=a%20b") == Attempt()
    (request,) = server.received
    assert (request.path, request.body, request.headers["x-mine"]) == ("/services/T0?key=a%20b", b"{}", "1")
    assert request.headers["host"] == server.url.removeprefix("http://")


@pytest.mark.parametrize(
    ("status", "again"), [(400, False), (404, False), (410, False), (408, True), (429, True), (500, True), (503, True)]
)
def test_a_refusal_says_what_the_server_says(status: int, again: bool) -> None:
    with HookReceiver(status, headers={"Retry-After": "7"}) as server:
        done = sent_to(server.url)
    assert done == Attempt(f"HTTP {status}: invalid_payload", again=again, wait=7.0)


def test_a_redirect_is_not_followed() -> None:
    with HookReceiver(200) as elsewhere, HookReceiver(307, headers={"Location": f"{elsewhere.url}/x"}) as server:
        done = sent_to(server.url)
    assert not done.again
    assert "redirects (HTTP 307)" in done.problem
    assert elsewhere.received == []


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xA9FEA9FE",
        "0251.0376.0251.0376",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",
        "[::]",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
def test_nothing_is_sent_to_a_link_to_metadata_or_to_everybody(host: str) -> None:
    done = sent_to(f"http://{host}:9/latest", seconds=SHORT)
    assert "where nothing is sent" in done.problem
    assert not done.again


def test_where_nobody_listens_it_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        held.close()
    assert sent_to(f"http://127.0.0.1:{port}/").again
    assert sent_to("http://no..name/").again


def _read_request(connection: socket.socket) -> None:
    received = b""
    while not received.endswith(b"{}"):
        received += connection.recv(4096)


def _hang(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def _drip(connection: socket.socket) -> None:
    """Each byte comes well before a deadline of its own would end, and the head never does."""
    _read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    connection.settimeout(SHORT / 10)
    while True:
        connection.sendall(b"x")
        with suppress(TimeoutError):
            if connection.recv(1) == b"":
                return


def test_a_server_that_hangs_or_never_ends_its_head_is_left() -> None:
    for answer in (_hang, _drip):
        with RawReceiver(answer) as server:
            done = sent_to(server.url, seconds=SHORT)
        assert done.again
        assert done.problem


def _endless_head(connection: socket.socket) -> None:
    _read_request(connection)
    connection.sendall(b"HTTP/1.1 500 x\r\n")
    while True:
        connection.sendall(b"X: " + b"x" * 1000 + b"\r\n")


def _endless_body(connection: socket.socket) -> None:
    _read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


def test_of_an_endless_reply_only_the_beginning_is_read() -> None:
    with RawReceiver(_endless_body) as server:
        assert sent_to(server.url) == Attempt()
    with RawReceiver(_endless_head) as server:
        done = sent_to(server.url)
    assert done.problem.startswith("HTTP 500")
    assert done.again
    assert len(done.problem) < 300
    assert MAX_HEAD <= 64 * 1024


@pytest.mark.parametrize("reply", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200", b"", b"HTTP/9 200 x\r\n\r\n", b"\x00" * 50])
def test_what_is_not_http_is_no_success(reply: bytes) -> None:
    def answer(connection: socket.socket) -> None:
        _read_request(connection)
        connection.sendall(reply)
        connection.shutdown(socket.SHUT_RDWR)

    with RawReceiver(answer) as server:
        done = sent_to(server.url)
    assert done.problem
    assert done.again


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


@pytest.mark.parametrize(("name", "is_trusted"), [("localhost", True), ("elsewhere.example", False)])
def test_by_https_the_certificate_has_to_be_of_the_name(authority: trustme.CA, name: str, is_trusted: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as inner:
            _read_request(inner)
            inner.sendall(b"HTTP/1.1 204 x\r\n\r\n")

    with RawReceiver(answer) as server:
        done = sent_to(server.url.replace("http://127.0.0.1", "https://localhost"))
    assert (done == Attempt()) is is_trusted
    assert is_trusted or "certificate" in done.problem.lower()


@pytest.mark.parametrize(
    "address",
    [
        "ftp://h/SECRET",
        "file:///SECRET",
        "h/SECRET",
        "http://",
        "http://ann:SECRET@h/",
        "http://h:99999/SECRET",
        "http://h/SECRET x",
        "http://h/SECRET\r\nX: 1",
        "http://h/SECRETé",
        "http:///SECRET",
    ],
)
def test_an_address_that_is_none_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(BadSetting) as caught:
        Webhook.parse(address)
    assert "SECRET" not in str(caught.value)


def test_an_address_is_named_without_its_path() -> None:
    assert str(Webhook.parse("https://hooks.slack.com/services/T0/B0/SECRET")) == "https://hooks.slack.com/…"
    assert str(Webhook.parse("http://[::1]:8080/SECRET?x=SECRET")) == "http://[::1]:8080/…"

"""HTTPS of a replica, with certificates that the test makes."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
import trustme

from registry.errors import BadSetting
from registry.serving.follow import Live, LiveOptions
from registry.serving.http.certificates import read_certificate
from registry.serving.http.options import HttpOptions
from registry.store.objects import ObjectStore
from tests.support.echo_releases import Shop, find_echo, wait_until
from tests.support.raw_http import connect, is_closed
from tests.support.running_app import running, running_server


@pytest.fixture
def live(store_url: str, model: str, tmp_path: Path) -> Iterator[Live]:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    with Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(find=find_echo, deadline=600)) as live:
        yield live


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    pair = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    pair.cert_chain_pems[0].write_to_path(certificate)
    pair.private_key_pem.write_to_path(key)
    return certificate, key


def test_answers_come_by_https(live: Live, authority: trustme.CA, files: tuple[Path, Path]) -> None:
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with running(live, HttpOptions(ssl_certfile=files[0], ssl_keyfile=files[1]), trust) as http:
        assert http.base_url.scheme == "https"
        assert http.post("/predict", files={"image": b"leaf"}).json()["version"] == "v1.0.0"


def test_a_renewed_certificate_is_shown_to_new_connections(
    live: Live, authority: trustme.CA, files: tuple[Path, Path]
) -> None:
    other = trustme.CA()
    renewed = other.issue_cert("127.0.0.1")

    def trusts(url: str, whom: trustme.CA) -> bool:
        trust = ssl.create_default_context()
        whom.configure_trust(trust)
        with suppress(httpx.ConnectError):
            return httpx.get(f"{url}/health/live", verify=trust, timeout=300).status_code == 200
        return False

    with running_server(live, HttpOptions(ssl_certfile=files[0], ssl_keyfile=files[1])) as (server, url):
        assert trusts(url, authority)
        files[0].write_text("half a file")
        server.read_files_again()
        assert trusts(url, authority)
        renewed.cert_chain_pems[0].write_to_path(files[0])
        renewed.private_key_pem.write_to_path(files[1])
        wait_until(lambda: trusts(url, other))
        assert not trusts(url, authority)


def test_what_speaks_no_tls_is_closed(live: Live, files: tuple[Path, Path]) -> None:
    with running_server(live, HttpOptions(ssl_certfile=files[0], ssl_keyfile=files[1])) as (server, url):
        with connect(url) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            while not is_closed(plain):  # TLS says what is wrong
                pass
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(f"{url}/health", timeout=300)
        wait_until(lambda: not server.server_state.connections)


def test_a_handshake_that_is_cut_off_leaves_nothing(live: Live, files: tuple[Path, Path]) -> None:
    with running_server(live, HttpOptions(ssl_certfile=files[0], ssl_keyfile=files[1])) as (server, url):
        with connect(url) as half:
            half.sendall(b"\x16\x03\x01\x02")
            wait_until(lambda: len(server.open) == 1)
            half.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: len(server.open) == 0)


def test_a_client_that_gives_way_keeps_no_file_handle(
    live: Live, authority: trustme.CA, files: tuple[Path, Path]
) -> None:
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    options = HttpOptions(ssl_certfile=files[0], ssl_keyfile=files[1], max_connections=2)
    with ExitStack() as stack, running_server(live, options) as (server, url):

        def open_one() -> bool:
            with suppress(OSError):
                one = stack.enter_context(trust.wrap_socket(connect(url), server_hostname="127.0.0.1"))
                one.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
                return one.recv(12) == b"HTTP/1.1 200"
            return False

        for _ in range(3):
            wait_until(open_one)
        assert len(server.open) == 2


def test_files_that_make_no_certificate_are_named(authority: trustme.CA, files: tuple[Path, Path]) -> None:
    certificate, key = files
    other = key.with_name("other.pem")
    authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(other)
    text = key.with_name("text.pem")
    text.write_text("a text")
    encrypted = key.with_name("encrypted.pem")
    encrypted.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n")
    for chain, private, said in (
        (certificate, key.with_name("missing.pem"), "missing.pem can't be read: No such file"),
        (certificate, other, "key values mismatch"),
        (certificate, None, "can't be used for TLS"),
        (text, key, "can't be used for TLS"),
        (certificate, text, "can't be used for TLS"),
        (certificate, encrypted, "can't be used for TLS|is encrypted"),
        (None, key, "no certificate"),
    ):
        with pytest.raises(BadSetting, match=said):
            read_certificate(chain, private)
    assert read_certificate(None, None) is None

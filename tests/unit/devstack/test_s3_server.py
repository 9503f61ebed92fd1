"""The embedded S3 server, without weed itself: its program, its keys, and the sockets that weed leaves in /tmp."""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.devstack import ports, s3_server
from registry.devstack.s3_server import S3Server
from registry.errors import MissingDependency, StoreUnreachable


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server with chosen ports, whose process does nothing."""
    server = S3Server(tmp_path)
    monkeypatch.setattr(server, "_command", lambda: [sys.executable, "-c", "import time; time.sleep(300)"])
    server._choose_ports()
    yield server
    server.kill()


@pytest.fixture
def immovable(server: S3Server) -> Iterator[Path]:
    """Something that can't be removed, not even by root, where weed's socket for the last of the ports would be."""
    assert server._ports
    path = socket_path(server._ports.numbers[-1])
    path.mkdir()
    yield path
    path.rmdir()


def socket_path(number: int) -> Path:
    """Where weed makes the filer's socket."""
    return Path(f"/tmp/seaweedfs-filer-{number}.sock")


def test_a_program_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(MissingDependency, match="no-such-program") as missing:
        s3_server._program("no-such-program", hint="pip install it")
    assert missing.value.hint == "pip install it"


def test_every_s3_server_has_keys_of_its_own(tmp_path: Path) -> None:
    first, second = S3Server(tmp_path), S3Server(tmp_path)
    assert {first.access_key, first.secret_key}.isdisjoint({second.access_key, second.secret_key})


def test_a_socket_left_by_a_killed_server_is_removed(server: S3Server) -> None:
    server._is_address_known = True  # so that the ports stay
    path = socket_path(server.port)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.is_socket()
    server.launch()
    assert server.running
    assert not path.exists()


def test_ports_whose_socket_cannot_be_removed_are_not_used(
    server: S3Server, immovable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, random = server.port, secrets.randbelow
    offered: list[int] = []

    def offer_the_same_first(limit: int) -> int:
        offered.append(random(limit) if offered else first - ports._FIRST_PORT)
        return offered[-1]

    monkeypatch.setattr(ports.secrets, "randbelow", offer_the_same_first)
    server._ports = None  # no longer reserved
    server.launch()
    assert server.running
    assert len(offered) > 1
    assert server.port != first
    assert immovable.exists()


def test_a_restart_names_a_socket_that_cannot_be_removed(server: S3Server, immovable: Path) -> None:
    server._is_address_known = True
    with pytest.raises(StoreUnreachable, match=rf"can't start .*{immovable} can't be removed"):
        server.launch()
    assert not server.running
    server.kill()

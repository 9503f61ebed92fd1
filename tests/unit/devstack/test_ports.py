"""Ports are reserved from their choice on, also against other processes."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from registry.devstack import ports
from registry.devstack.ports import HOST, Ports, is_free
from registry.errors import UloraError

# A process that takes the only port of a range, says so, and waits.
_HOLD_ONE = """
import sys
from registry.devstack import ports
ports._FIRST_PORT = int(sys.argv[1])
ports._LAST_PORT = ports._FIRST_PORT + 1
held = ports.Ports()
print(held.first, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def two_numbers(monkeypatch: pytest.MonkeyPatch) -> int:
    """Only two numbers can be chosen; the first one of them."""
    first = Ports(count=2).first
    monkeypatch.setattr(ports, "_FIRST_PORT", first)
    monkeypatch.setattr(ports, "_LAST_PORT", first + 2)
    return first


def test_a_server_that_listens_nowhere_has_no_port() -> None:
    none = Ports(count=0)
    assert none.numbers == none.taken() == []


def test_chosen_ports_and_those_above_them_can_be_bound() -> None:
    chosen = Ports(count=5, offset=10_000)
    first = chosen.first
    assert chosen.numbers == [*range(first, first + 5), *range(first + 10_000, first + 10_005)]
    for number in chosen.numbers:
        with socket.socket() as server:
            server.bind((HOST, number))
            server.listen()


def test_ports_are_below_the_range_of_outgoing_connections() -> None:
    assert max(Ports(count=5, offset=10_000).numbers) < 32_768


def test_no_two_have_the_same_port_while_both_live(two_numbers: int) -> None:
    one, other = Ports(), Ports()
    assert {one.first, other.first} == {two_numbers, two_numbers + 1}
    with pytest.raises(UloraError, match="no 1 consecutive free ports"):
        Ports()
    freed = one.first
    del one
    assert Ports().first == freed


def test_a_port_that_another_process_reserved_is_not_chosen(two_numbers: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD_ONE, str(two_numbers)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert int(holder.stdout.readline()) == two_numbers
        assert Ports().first == two_numbers + 1
        holder.kill()
    held = [Ports(), Ports()]
    assert {each.first for each in held} == {two_numbers, two_numbers + 1}


def test_a_port_that_somebody_listens_on_is_not_chosen(two_numbers: int) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, two_numbers))
        taken.listen()
        assert not is_free(two_numbers)
        assert Ports().first == two_numbers + 1


def test_a_port_that_was_taken_later_is_named() -> None:
    chosen = Ports(count=2)
    assert chosen.taken() == []
    with socket.socket() as foreign:
        foreign.bind((HOST, chosen.first + 1))
        foreign.listen()
        assert chosen.taken(seconds=0.1) == [chosen.first + 1]
    assert chosen.taken(seconds=300) == []

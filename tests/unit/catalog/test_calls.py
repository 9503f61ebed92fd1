"""Calls with a deadline: their results and errors come through; what is too slow is ended and left behind."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import pytest

from registry.catalog.calls import BadAnswer, BoundedClient, Deadline


class Slow:
    """A client that keeps the thread of its endless call."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None

    def add(self, one: int, *, two: int) -> int:
        return one + two

    def fail(self) -> None:
        raise ConnectionError("as asked")

    def stumble(self) -> None:
        raise ValueError("not a number")

    def never(self) -> None:
        self.thread = threading.current_thread()
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            socket.create_connection(silent.getsockname()) as asking,
            suppress(OSError),
        ):
            asking.recv(1)


def test_results_and_errors_of_a_call_come_through() -> None:
    client = BoundedClient(Slow(), Deadline(300))
    assert client.add(1, two=2) == 3
    with pytest.raises(ConnectionError, match="as asked"):
        client.fail()
    with pytest.raises(BadAnswer, match="ValueError: not a number"):
        client.stumble()
    with pytest.raises(AttributeError, match="missing"):
        client.missing()


def test_an_endless_call_is_ended_at_the_deadline() -> None:
    slow = Slow()
    client = BoundedClient(slow, Deadline(0.1))
    with pytest.raises(TimeoutError, match=r"timed out, 0\.1 s are over"):
        client.never()
    if slow.thread is not None:  # it may not have begun
        slow.thread.join(300)
        assert not slow.thread.is_alive()


def test_after_the_deadline_no_call_begins_to_matter() -> None:
    client = BoundedClient(Slow(), Deadline(0))
    with pytest.raises(TimeoutError):
        client.never()

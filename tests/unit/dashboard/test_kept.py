"""What was read is shared for some seconds."""

from __future__ import annotations

import threading

import pytest

from registry.dashboard.kept import RETRY_SECONDS, SECONDS, KeptReads
from registry.errors import NotFound, StoreUnreachable


class Counted:
    """Something to read, and a clock."""

    def __init__(self) -> None:
        self.reads, self.now = 0, 0.0
        self.error: Exception | None = None

    def read(self) -> int:
        self.reads += 1
        if self.error:
            raise self.error
        return self.reads


def test_a_value_is_read_again_when_it_is_old() -> None:
    counted = Counted()
    kept = KeptReads(lambda: counted.now)
    assert [kept.get("a", counted.read) for _ in range(3)] == [1, 1, 1]
    counted.now = SECONDS + 0.1
    assert kept.get("a", counted.read) == 2
    kept.forget()
    assert kept.get("a", counted.read) == 3


def test_a_store_that_is_down_is_left_alone_for_a_while() -> None:
    counted = Counted()
    kept = KeptReads(lambda: counted.now)
    counted.error = StoreUnreachable("it does not answer", hint="is it up?")
    for _ in range(3):
        with pytest.raises(StoreUnreachable, match="does not answer"):
            kept.get("a", counted.read)
    assert counted.reads == 1
    counted.error, counted.now = None, RETRY_SECONDS + 0.1
    assert kept.get("a", counted.read) == 2


def test_other_errors_are_not_kept() -> None:
    counted = Counted()
    counted.error = NotFound("nothing")
    kept = KeptReads(lambda: counted.now)
    for _ in range(2):
        with pytest.raises(NotFound):
            kept.get("a", counted.read)
    assert counted.reads == 2


def test_threads_share_one_read_and_keys_are_bounded() -> None:
    counted, start = Counted(), threading.Barrier(8)
    kept = KeptReads(lambda: counted.now, limit=3)

    def ask() -> None:
        start.wait()
        kept.get("a", counted.read)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.reads == 1
    for key in range(10):
        kept.get(key, counted.read)
    assert kept.get("a", counted.read) == 12, "it had to make room"

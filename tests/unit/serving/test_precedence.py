"""While a loop refuses requests, threads that compute and read let it go first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from registry.serving import precedence as module
from registry.serving.precedence import LoopPrecedence
from tests.support.echo_releases import wait_until


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is."""
    monkeypatch.setattr(module, "_LONGEST", 300.0)
    monkeypatch.setattr(module, "_RECENT", 300.0)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_nobody_waits_without_a_refusal() -> None:
    precedence = LoopPrecedence()
    assert precedence.give_way() == 0.0
    precedence.wait()
    assert not precedence.is_on


def test_both_threads_wait_for_what_the_loop_is_at(loop: asyncio.AbstractEventLoop) -> None:
    precedence, at_work, go_on = LoopPrecedence(), threading.Event(), threading.Event()
    order: list[str] = []

    def refuse() -> None:
        precedence.refused(loop)
        loop.call_soon(order.append, "the next round")
        at_work.set()
        assert go_on.wait(300)
        order.append("this round")

    def compute() -> None:
        precedence.give_way()
        order.append("computes")

    def read() -> None:
        precedence.wait()
        order.append("reads")

    loop.call_soon_threadsafe(refuse)
    assert at_work.wait(300)
    computing = threading.Thread(target=compute)
    computing.start()
    wait_until(lambda: not precedence._is_free.is_set())
    reading = threading.Thread(target=read)
    reading.start()
    assert order == []
    go_on.set()
    for thread in (computing, reading):
        thread.join()
    assert order[:2] == ["this round", "the next round"]
    assert set(order[2:]) == {"computes", "reads"}


def test_a_loop_that_hangs_is_not_waited_for_ever(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST", 0.01)
    precedence, go_on = LoopPrecedence(), threading.Event()
    loop.call_soon_threadsafe(go_on.wait, 300)
    precedence.refused(loop)
    assert precedence.give_way() > 0.0
    precedence.wait()
    assert not go_on.is_set()
    go_on.set()


def test_a_closed_loop_is_forgotten() -> None:
    precedence, loop = LoopPrecedence(), asyncio.new_event_loop()
    loop.close()
    precedence.refused(loop)
    precedence.give_way()
    assert precedence._loop is None
    assert precedence.give_way() == 0.0
    precedence.wait()


def test_the_loop_goes_first_only_while_it_refuses(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    precedence, go_on = LoopPrecedence(), threading.Event()
    precedence.refused(loop)
    monkeypatch.setattr(module, "_RECENT", 0.0)
    loop.call_soon_threadsafe(go_on.wait, 300)
    assert precedence.give_way() == 0.0  # it does not wait, though the loop hangs
    go_on.set()

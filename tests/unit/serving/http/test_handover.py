"""Answers of other threads reach the event loop, each once, with few wake-ups."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from registry.serving.http.handover import Handover, handover_to


def test_answers_of_many_threads_arrive_each_once() -> None:
    async def all_of_them(count: int) -> list[int]:
        way = handover_to(asyncio.get_running_loop())
        futures: list[Future[int]] = [Future() for _ in range(count)]
        answers = [way.wrap(future) for future in futures]
        with ThreadPoolExecutor(8) as pool:
            for number, future in enumerate(futures):
                pool.submit(future.set_result, number)
                if number % 50 == 0:
                    await asyncio.sleep(0)
            return await asyncio.gather(*answers)

    for _ in range(20):
        assert asyncio.run(all_of_them(500)) == list(range(500))


def test_what_is_there_together_wakes_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wake_ups() -> int:
        loop, woken = asyncio.get_running_loop(), 0
        really = loop.call_soon_threadsafe

        def counting(*given: Any) -> Any:
            nonlocal woken
            woken += 1
            return really(*given)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
        way = Handover(loop)
        futures: list[Future[int]] = [Future() for _ in range(32)]
        answers = [way.wrap(future) for future in futures]
        for future in futures:  # the loop has no turn meanwhile
            future.set_result(1)
        await asyncio.gather(*answers)
        return woken

    assert asyncio.run(wake_ups()) == 1


def test_errors_arrive_as_they_are() -> None:
    async def outcomes() -> list[Any]:
        way = handover_to(asyncio.get_running_loop())
        errors = [ValueError("a"), StopIteration("b"), MemoryError("c")]
        futures: list[Future[int]] = [Future() for _ in range(4)]
        answers = [way.wrap(future) for future in futures]
        for future, error in zip(futures, errors, strict=False):
            future.set_exception(error)
        futures[3].cancel()
        return await asyncio.gather(*answers, return_exceptions=True)

    kinds = [type(each) for each in asyncio.run(outcomes())]
    assert kinds == [ValueError, RuntimeError, MemoryError, asyncio.CancelledError]


def test_nobody_hears_an_answer_that_is_not_awaited_any_more() -> None:
    async def cancelled() -> bool:
        way = handover_to(asyncio.get_running_loop())
        future: Future[int] = Future()
        answer = way.wrap(future)
        answer.cancel()
        future.set_result(1)
        other: Future[int] = Future()
        waiting = way.wrap(other)
        other.set_result(2)
        return await waiting == 2 and answer.cancelled()

    assert asyncio.run(cancelled())


def test_an_answer_after_the_end_of_the_loop_is_dropped() -> None:
    future: Future[int] = Future()

    async def leave() -> None:
        handover_to(asyncio.get_running_loop()).wrap(future)

    asyncio.run(leave())
    thread = threading.Thread(target=future.set_result, args=(1,))
    thread.start()
    thread.join()
    assert future.result() == 1


def test_a_loop_is_not_kept_by_its_way() -> None:
    async def way() -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = asyncio.get_running_loop()
        handover_to(loop)
        return weakref.ref(loop)

    loop = asyncio.run(way())
    gc.collect()
    assert loop() is None

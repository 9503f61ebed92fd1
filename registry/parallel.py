"""Run functions in other threads: one on many items, or one with a deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

WORKERS = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(act: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`act` on every item, up to WORKERS at a time, results in order. After an error no further item is started."""
    with ThreadPoolExecutor(WORKERS) as pool:
        futures: list[Future[Result]] = [pool.submit(act, item) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()
    for future in futures:
        if not future.cancelled() and (error := future.exception()):
            raise error
    return [future.result() for future in futures]


def within(seconds: float, act: Callable[[], Result], name: str = "ulora-within") -> Result:
    """Call `act` in its own thread and wait for its result at most so long. After that it may still be running; it does
    not keep the process from ending.

    Raises:
        TimeoutError: it has not returned in time.
        Exception: the one that it raised.
    """
    results: list[Result] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(act())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"not done after {seconds:g} s")
    if failures:
        raise failures[0]
    return results[0]

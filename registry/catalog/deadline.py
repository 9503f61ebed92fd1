"""A time limit for calls that may hang."""

from __future__ import annotations

import threading
from collections.abc import Callable


def within(seconds: float, act: Callable[[], object]) -> None:
    """Call `act` in its own thread and wait for it at most so long. After that it may still be running.

    Raises:
        TimeoutError: it has not returned in time.
        Exception: the one that it raised.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="ulora-mirror", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"not done after {seconds:g} s")
    if failures:
        raise failures[0]

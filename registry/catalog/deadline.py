"""A limit in time around work that may hang."""

from __future__ import annotations

import threading
from collections.abc import Callable


def within(seconds: float, act: Callable[[], object]) -> None:
    """Run `act` in a thread of its own and wait for it at most so long. It may go on behind our back after that.

    Raises:
        TimeoutError: it was not done in time.
        Exception: whatever it raised.
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

"""Work in several threads: results in order, errors reach the caller."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import threading

import pytest

from registry.parallel import MAX_CALLS, NotStarted, in_parallel, time_left, time_limit, within


def test_results_come_in_the_order_of_the_items() -> None:
    assert in_parallel(lambda number: number * 2, range(40)) == [number * 2 for number in range(40)]


def test_an_error_in_a_thread_is_raised() -> None:
    def act(number: int) -> int:
        if number == 7:
            raise ValueError("seven")
        return number

    with pytest.raises(ValueError, match="seven"):
        in_parallel(act, range(40))


def test_a_time_limit_caps_calls_in_other_threads_too() -> None:
    def wait(_: int) -> None:
        within(60, threading.Event().wait)

    with time_limit(0.1), pytest.raises(TimeoutError):
        in_parallel(wait, range(3))
    with time_limit(0), pytest.raises(NotStarted):
        within(60, lambda: None)
    assert time_left() == math.inf


def test_a_call_that_gets_on_is_waited_for() -> None:
    steps = iter(range(8))
    done: list[int] = []

    def act() -> str:
        for step in steps:
            done.append(step)
            threading.Event().wait(0.1)
        return "done"

    assert within(0.3, act, moved=lambda: len(done)) == "done"
    with pytest.raises(TimeoutError):
        within(0.1, threading.Event().wait, moved=lambda: 0)


HANGING = """
import threading
from registry.parallel import in_parallel, within
def hang(number):
    print("hangs", flush=True)
    within(600, threading.Event().wait)
try:
    in_parallel(hang, range(40))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_what_hangs_in_other_threads() -> None:
    with subprocess.Popen([sys.executable, "-c", HANGING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "hangs\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 0
        assert process.stdout.read().splitlines()[-1] == "interrupted"


def test_a_call_that_can_t_start_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_many(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", too_many)
        for _ in range(MAX_CALLS + 1):
            with pytest.raises(RuntimeError, match="can't start"):
                within(0.1, lambda: None)
    assert within(60, lambda: "done") == "done"

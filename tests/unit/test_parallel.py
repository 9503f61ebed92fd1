"""Work in several threads: results in order, errors reach the caller."""

from __future__ import annotations

import http.client
import math
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from registry import parallel
from registry.parallel import MAX_CALLS, NotStarted, in_parallel, time_left, time_limit, within, within_or_ended


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


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_a_call_without_time_is_not_started(seconds: float) -> None:
    made: list[int] = []
    with pytest.raises(NotStarted):
        within(seconds, lambda: made.append(1))
    assert made == []


def test_a_call_may_have_any_time() -> None:
    assert within(math.inf, lambda: "done") == "done"


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
import os, threading
from registry.parallel import in_parallel, within
def hang(number):
    os.write(1, b"hangs\\n")
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


def _read(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection, connection.makefile("rb") as answer:
        answer.read()


def _read_again_and_again(address: tuple[str, int]) -> None:
    for _ in range(3):
        _read(address)


def _send(address: tuple[str, int]) -> None:
    client = http.client.HTTPConnection(*address)
    client.request("PUT", "/", body=bytes(1 << 26))


@pytest.mark.parametrize("act", [_read, _read_again_and_again, _send])
def test_a_call_for_a_server_is_ended_when_it_is_given_up(act: Callable[[tuple[str, int]], None]) -> None:
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def ask() -> None:
            threads.append(threading.current_thread())
            with suppress(OSError):
                act(silent.getsockname())

        with pytest.raises(TimeoutError):
            within_or_ended(0.1, ask)
        threads[0].join(300)
        assert not threads[0].is_alive()


_GARBAGE = """
import gc, socket, threading, time, warnings
from registry.parallel import within_or_ended
warnings.simplefilter("ignore")
gc.set_threshold(20)  # so that garbage is collected whenever it can be
for _ in range(100):
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
silent = socket.create_server(("127.0.0.1", 0), backlog=1000)

def ask():
    for _ in range(3):  # sockets that are garbage, in circles, as the traceback of an error leaves them
        circle = [socket.socket()]
        circle.append(circle)
    socket.create_connection(silent.getsockname()).recv(1)

def work():
    for _ in range(40):
        try:
            within_or_ended(0.02, ask)
        except TimeoutError:
            pass

workers = [threading.Thread(target=work) for _ in range(8)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
"""


def test_sockets_that_are_garbage_do_not_stop_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", _GARBAGE], timeout=120, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_call_that_is_given_up_is_not_cut_in_the_middle() -> None:
    lock, given_up, ended = threading.Lock(), threading.Event(), threading.Event()

    def act() -> None:
        lock.acquire()  # as a library does: an exception between this line and the next would leave it taken
        while not given_up.is_set():
            sum(range(100))
        lock.release()
        ended.set()

    with pytest.raises(TimeoutError):
        within_or_ended(0.1, act)
    given_up.set()
    assert ended.wait(300)
    assert lock.acquire(timeout=300)


def test_a_call_for_a_server_returns_what_it_got() -> None:
    assert within_or_ended(60, lambda: "done") == "done"
    with pytest.raises(ValueError, match="seven"):
        within_or_ended(60, lambda: int("seven"))


def test_a_call_that_can_t_start_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_many(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(parallel._THREADS, "idle", [])
        full.setattr(threading.Thread, "start", too_many)
        for _ in range(MAX_CALLS + 1):
            with pytest.raises(RuntimeError, match="can't start"):
                within(0.1, lambda: None)
    assert within(60, lambda: "done") == "done"


def test_a_thread_makes_many_calls_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel._THREADS, "idle", [])
    assert len({within(60, threading.get_ident) for _ in range(20)}) == 1


def test_no_later_call_is_made_by_a_thread_that_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel._THREADS, "idle", [])
    given_up: list[threading.Thread] = []
    go_on, has_ended = threading.Event(), threading.Event()

    def hang() -> None:
        given_up.append(threading.current_thread())
        go_on.wait(300)
        has_ended.set()

    with pytest.raises(TimeoutError):
        within(0.1, hang)
    go_on.set()
    has_ended.wait(300)
    assert given_up[0] not in [within(60, threading.current_thread) for _ in range(5)]


def test_calls_inside_of_calls_have_threads_of_their_own() -> None:
    def depth(left: int) -> list[int]:
        return [threading.get_ident(), *(within(60, lambda: depth(left - 1)) if left else [])]

    assert len(set(within(60, lambda: depth(5)))) == 6


def test_a_call_ends_before_its_caller_gives_it_up_or_not_at_all() -> None:
    """However close the end of the call and the end of the time are."""
    for _ in range(300):
        with suppress(TimeoutError):
            assert within(0.001, lambda: threading.Event().wait(0.001)) is False
    assert within(60, lambda: "done") == "done"


FORK = """
import os, sys
from registry import parallel
from registry.parallel import within
within(60, lambda: None)
for _ in range(parallel.MAX_CALLS):
    parallel._THREADS.places.get()  # as if other threads had all places at the fork
if (child := os.fork()) == 0:
    os._exit(within(60, lambda: 7))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_has_threads_of_its_own() -> None:
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], timeout=300, check=False).returncode == 7

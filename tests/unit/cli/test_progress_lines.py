"""The bar of progress on a terminal, and what a log gets instead."""

from __future__ import annotations

import os
import pty
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from registry.cli import output as output_module
from registry.cli.fit import _bars
from registry.cli.output import Output


def shown(capsys: pytest.CaptureFixture[str], *, as_json: bool = False) -> str:
    with Output(as_json).progress(4, "copying") as done:
        done(1)
        done(2)
    return capsys.readouterr().err


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "_LINE_SECONDS", 0.0)
    assert shown(capsys) == "copying: 25%\ncopying: 75%\n"


def test_a_log_gets_nothing_of_what_is_soon_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "_LINE_SECONDS", 3600.0)
    assert shown(capsys) == ""


def test_programs_get_no_lines_of_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "_LINE_SECONDS", 0.0)
    assert shown(capsys, as_json=True) == ""


@contextmanager
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Standard error is a terminal; each state of its bars is in the list at the end."""
    ours, theirs = pty.openpty()
    said, states = bytearray(), list[str]()

    def read() -> None:
        with suppress(OSError):  # how a terminal ends
            while data := os.read(ours, 4096):
                said.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    with monkeypatch.context() as patched, os.fdopen(theirs, "w") as terminal:
        patched.setattr(sys, "stderr", terminal)
        yield states
    reader.join()
    os.close(ours)
    text = re.sub(r"\x1b\[[?0-9]*[A-Za-z]", "", said.decode())
    states[:] = [state.strip() for state in re.split(r"[\r\n]+", text) if state.strip()]


def test_a_bar_ends_full_where_less_was_to_do_than_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_a_terminal(monkeypatch) as states, Output(as_json=False).progress(100, "copying") as done:
        done(60)
    assert states[-1].endswith("100%")


def test_a_bar_stays_where_the_work_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        with Output(as_json=False).progress(100, "copying") as done:
            done(60)
            raise OSError("disk")

    with on_a_terminal(monkeypatch) as states, pytest.raises(OSError, match="disk"):
        fail()
    assert "60%" in states[-1]


def test_the_bar_of_a_fit_stays_where_it_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        with _bars(Output(as_json=False)) as told:
            told("train", 10, 10)
            told("val", 3, 10)
            raise KeyboardInterrupt

    with on_a_terminal(monkeypatch) as states, pytest.raises(KeyboardInterrupt):
        interrupt()
    assert states[-1].startswith("val")
    assert "30%" in states[-1]


def test_threads_move_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    def move() -> None:
        with Output(as_json=False).progress(2_000, "copying") as done, ThreadPoolExecutor(8) as pool:
            list(pool.map(done, [1] * 1_000))
            raise OSError("half of it")

    with on_a_terminal(monkeypatch) as states, pytest.raises(OSError, match="half of it"):
        move()
    assert "50%" in states[-1]

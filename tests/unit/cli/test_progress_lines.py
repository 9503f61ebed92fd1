"""The bar of progress on a terminal, and what a log gets instead."""

from __future__ import annotations

import io
import re
import sys
from concurrent.futures import ThreadPoolExecutor

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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def bars(self) -> list[str]:
        """Each state of the bar, without the marks for the terminal."""
        return [state.strip() for state in re.split(r"[\r\n]", re.sub(r"\x1b\[[?0-9]*[A-Za-z]", "", self.getvalue()))]


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called within a test: pytest puts its own standard error in place at the start of each phase."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_a_bar_ends_full_where_less_was_to_do_than_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with Output(as_json=False).progress(100, "copying") as done:
        done(60)
    *_, last = filter(None, terminal.bars())
    assert last.endswith("100%")


def test_a_bar_stays_where_the_work_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)

    def fail() -> None:
        with Output(as_json=False).progress(100, "copying") as done:
            done(60)
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        fail()
    assert not any("100%" in state for state in terminal.bars())
    assert any("60%" in state for state in terminal.bars())


def test_the_bar_of_a_fit_stays_where_it_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)

    def interrupt() -> None:
        with _bars(Output(as_json=False)) as told:
            told("train", 10, 10)
            told("val", 3, 10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    of_val = [state for state in terminal.bars() if state.startswith("val")]
    assert of_val[-1].endswith("30%")


def test_threads_move_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with Output(as_json=False).progress(2_000, "copying") as done, ThreadPoolExecutor(8) as pool:
        list(pool.map(done, [1] * 1_000))
        assert any("50%" in state for state in terminal.bars())

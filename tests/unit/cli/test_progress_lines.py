"""What a log gets instead of a bar of progress."""

from __future__ import annotations

import pytest

from registry.cli import output as output_module
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

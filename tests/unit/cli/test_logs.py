"""Log lines: one line each, as text or JSON, and nobody waits for their reader."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from registry.cli.main import _fail_unexpectedly

LOGS = """
import logging, sys
from registry.cli.logs import start_logging
start_logging(sys.argv[1])
log = logging.getLogger("registry.serving.events")
"""


def logged(log_format: str, code: str) -> list[str]:
    """The lines on standard error of a process that logs."""
    done = subprocess.run(
        [sys.executable, "-c", LOGS + code, log_format], capture_output=True, text=True, check=True, timeout=300
    )
    return done.stderr.splitlines()


def test_a_line_of_json_has_the_fields_of_its_event() -> None:
    (line,) = logged("json", 'log.info("%s", "hello", extra={"facts": {"event": "version", "generation": 3}})')
    document = json.loads(line)
    assert document.pop("time").endswith("Z")
    assert document == {
        "level": "INFO", "logger": "registry.serving.events", "message": "hello", "event": "version", "generation": 3,
    }  # fmt: skip


def test_what_others_wrote_can_not_forge_a_line() -> None:
    (line,) = logged("text", r'log.warning("a reason\n2026-01-01T00:00:00Z INFO serves v9.9.9\x1b[2J")')
    assert "WARNING a reason 2026-01-01" in line
    assert "\x1b" not in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_exception_of_a_line_is_shown(log_format: str) -> None:
    code = "try: 1 / 0\nexcept Exception: log.exception('it failed')"
    assert any("ZeroDivisionError" in line for line in logged(log_format, code))


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_exception_of_a_line_has_no_credential(log_format: str) -> None:
    code = r"""try: raise ValueError("Invalid header value b'SECRET\\n'")
except Exception: log.exception("it failed")"""
    (line,) = logged(log_format, code)
    assert "Invalid header value (not shown)" in line
    assert "b'SECRET" not in line.rpartition("ValueError: ")[2]


def test_the_traceback_of_an_unexpected_error_has_no_credential(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ULORA_DEBUG", "1")
    said = r"Invalid header value b'horse\n'"
    try:
        raise RuntimeError(said)
    except RuntimeError as error:
        with pytest.raises(SystemExit):
            _fail_unexpectedly(error, as_json=False, known="")
    shown = capsys.readouterr().err
    assert "RuntimeError: Invalid header value (not shown)" in shown
    assert "horse" not in shown


def test_only_warnings_of_other_packages_are_shown() -> None:
    other = 'other = logging.getLogger("urllib3"); other.info("no"); other.warning("yes")'
    assert [line.rpartition(" ")[2] for line in logged("text", other)] == ["yes"]


def test_who_logs_never_waits_for_the_reader() -> None:
    code = 'for number in range(100_000): log.info("%s", "x" * 1000)\nprint("done", flush=True)'
    with subprocess.Popen(
        [sys.executable, "-c", LOGS + code, "text"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "done\n"  # though nobody reads standard error
        process.kill()
        process.communicate()


def test_the_process_ends_though_nobody_reads_its_log() -> None:
    code = 'for number in range(1000): log.info("%s", "x" * 1000)\nsys.exit(7)'
    with subprocess.Popen([sys.executable, "-c", LOGS + code, "text"], stderr=subprocess.PIPE) as process:
        assert process.wait(300) == 7

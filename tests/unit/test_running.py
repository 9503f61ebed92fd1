"""What a run of tests says before it ends: which test failed, and which one does not end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import RunningTests

TESTS = """
def test_that_fails():
    assert False

def test_that_passes():
    pass
"""


def test_a_test_that_runs_for_too_long_is_named() -> None:
    running = RunningTests(print, long=0.0)
    running.pytest_runtest_logstart("test_a.py::test_slow")
    running.pytest_runtest_logstart("test_a.py::test_quick")
    running.pytest_runtest_logfinish("test_a.py::test_quick")
    (line,) = running.long_ones()
    assert line.endswith(" s: test_a.py::test_slow\n")


def test_no_test_is_named_before_its_time() -> None:
    running = RunningTests(print, long=3600.0)
    running.pytest_runtest_logstart("test_a.py::test_slow")
    assert running.long_ones() == []


@pytest.mark.acceptance
@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["one process", "with workers"])
def test_a_failure_is_said_once_and_before_the_summary(tmp_path: Path, workers: list[str]) -> None:
    (tmp_path / "test_two.py").write_text(TESTS)
    run = [sys.executable, "-m", "pytest", "-q", "-p", "tests.running", "-p", "no:cacheprovider", *workers]
    paths = ["--rootdir", str(tmp_path), "-c", str(tmp_path / "pytest.ini"), str(tmp_path)]
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    ended = subprocess.run([*run, *paths], capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    before, _, _ = ended.stdout.partition("FAILURES")
    assert before.count("failed: test_two.py::test_that_fails") == 1, ended.stdout
    assert "test_that_passes" not in ended.stdout

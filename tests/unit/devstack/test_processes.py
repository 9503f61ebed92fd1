"""The demo's commands and fits: what is known of them afterwards, and how they are ended early."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.devstack.processes import FitProcess, ulora
from registry.errors import UloraError
from registry.plugins import TRAINERS

# More than a pipe holds, between two lines of progress; some of it is not text.
_PRINTS_MUCH = r"""
import sys
print("fitting 1 3", flush=True)
for _ in range(5000):
    print("a library prints a line of six words", flush=True)
sys.stdout.buffer.write(b"\n\xff\xfe\n")
print("fitting 3 3", flush=True)
"""
# Its output ends long before it does.
_CLOSES_STDOUT = """
import os, sys
os.close(1)
sys.stdin.read()
"""


def test_a_command_leaves_its_status_and_what_it_printed(tmp_path: Path) -> None:
    done = ulora("list", "--no-such-option", env=os.environ, cwd=tmp_path)
    assert (done.line, done.code) == ("ulora list --no-such-option", 2)
    assert "no-such-option" in done.err


def test_a_command_is_ended_when_the_check_fails(tmp_path: Path) -> None:
    def check() -> None:
        raise UloraError("a request failed")

    with pytest.raises(UloraError, match="a request failed"):
        ulora("dev", "--folder", str(tmp_path / "data"), env=os.environ, cwd=tmp_path, check=check)
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "data") not in listed


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], FitProcess]]:
    """Start a fit whose trainer is a given program, in an installed package."""
    info = tmp_path / "site" / "trainer-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trainer\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{TRAINERS}]\nother = some_trainer:main\n")
    monkeypatch.syspath_prepend(info.parent)
    started: list[FitProcess] = []

    def start(program: str) -> FitProcess:
        (info.parent / "some_trainer.py").write_text(program)
        env = {**os.environ, "PYTHONPATH": str(info.parent)}
        started.append(FitProcess("other", [], env, tmp_path / "fits"))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def count_to(limit: int) -> Callable[[], None]:
    """A check that fails the `limit`th time."""
    calls = iter(range(1, limit))

    def check() -> None:
        if next(calls, None) is None:
            raise UloraError("a request failed")

    return check


def test_a_fit_may_print_lines_that_are_not_progress(fit: Callable[[str], FitProcess]) -> None:
    running = fit(_PRINTS_MUCH)
    running.wait(count_to(1000))
    running.stop()  # all is read then
    assert running.progress == "fitting 3 of 3"


def test_the_check_is_called_until_a_fit_has_ended(fit: Callable[[str], FitProcess]) -> None:
    running = fit(_CLOSES_STDOUT)
    running._reader.join()
    with pytest.raises(UloraError, match="a request failed"):
        running.wait(count_to(2))
    assert running.running


def test_a_failed_fit_says_why(fit: Callable[[str], FitProcess]) -> None:
    with pytest.raises(UloraError, match="a fit failed: no images"):
        fit("import sys; sys.exit('no images')").wait()

"""The command line that the user of `ulora follow` gives: its environment, its end, and what is kept of its output."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.machine.programs import HookAnswer, run_hook, run_module
from tests.support.echo_releases import wait_until


def run(command: str, stopped: Callable[[], bool] = lambda: False, *, seconds: float = 300) -> HookAnswer:
    return run_hook(command, seconds=seconds, env={"ULORA_VERSION": "v1.0.0; touch evil"}, stopped=stopped)


def test_values_reach_it_by_variables_and_are_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OF_THE_CALLER", "kept")
    assert run('printf "%s|%s" "$ULORA_VERSION" "$OF_THE_CALLER"') == HookAnswer(0, "v1.0.0; touch evil|kept")
    assert list(tmp_path.iterdir()) == []


def test_how_it_ended_and_the_last_of_what_it_said() -> None:
    answer = run("seq 1 100000; echo the reason >&2; exit 7")
    assert (answer.code, answer.said.splitlines()[-1]) == (7, "the reason")
    assert len(answer.said) <= 4096


@pytest.mark.acceptance
def test_at_its_time_out_it_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    assert run(f"sleep 1000 & echo $! > {pids}; trap '' TERM; wait; sleep 1000", seconds=0.5).code is None
    child = int(pids.read_text())
    wait_until(lambda: not _runs(child))


@pytest.mark.acceptance
def test_what_goes_on_when_its_shell_has_ended_is_ended_too(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    child = f"trap '' TERM; echo $$ > {pids}; while :; do sleep 0.1; done"
    assert run(f'sh -c "{child.replace("$", chr(92) + "$")}"; echo done', stopped=pids.exists).code is None
    wait_until(lambda: not _runs(int(pids.read_text())))


def test_a_module_ends_as_a_hook_does(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, sys, time\nprint(sys.argv[1:], os.environ['MINE'], flush=True)\ntime.sleep(float(sys.argv[1]))\n"
    )
    env = {"MINE": "kept", "PYTHONPATH": str(tmp_path)}
    assert run_module("mine", ["0"], seconds=300, env=env) == HookAnswer(0, "['0'] kept")
    assert run_module("mine", ["1000"], seconds=0.5, env=env).code is None


def test_it_is_ended_when_it_is_to_stop(tmp_path: Path) -> None:
    started = tmp_path / "started"
    assert run(f"touch {started}; sleep 1000", stopped=started.exists).code is None


def test_interrupted_it_is_ended(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def interrupt() -> bool:
        if pids.exists() and pids.read_text().endswith("\n"):
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run(f"echo $$ > {pids}; exec sleep 1000", stopped=interrupt)
    assert not _runs(int(pids.read_text()))


def test_interrupted_again_it_is_ended_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids, sleep = tmp_path / "pids", time.sleep
    command = f"trap '' TERM INT; echo $$ > {pids}; while :; do sleep 0.1; done"

    def interrupted(seconds: float) -> None:
        if pids.exists() and pids.read_text().endswith("\n"):
            raise KeyboardInterrupt
        sleep(seconds)

    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(command)
    wait_until(lambda: not _runs(int(pids.read_text())))


def test_what_it_leaves_in_the_background_holds_nobody_up(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    assert run(f"sleep 1000 & echo $! > {pids}").code == 0
    child = int(pids.read_text())
    assert _runs(child)
    os.kill(child, 9)


def test_one_that_closes_its_output_is_waited_for(tmp_path: Path) -> None:
    assert run(f"exec >&- 2>&-; while [ ! -e {tmp_path}/go ]; do touch {tmp_path}/go; done").code == 0


def _runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and whose parent has not asked yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

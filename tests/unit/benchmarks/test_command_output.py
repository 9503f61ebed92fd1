"""Commands that are run for what they print: nothing that they started is left, however they end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.command_output import output_of
from benchmarks.software import SoftwareParameters
from benchmarks.software_run import run_software
from registry.errors import LoadFailed
from tests.support.echo_releases import wait_until
from tests.support.pages import ROOT

CHILD = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], stdout=subprocess.DEVNULL)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(child.pid))
os.rename(sys.argv[1] + ".new", sys.argv[1])
"""


def runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.parametrize(
    ("end", "raised"),
    [("raise SystemExit(3)", LoadFailed), ("raise SystemExit(130)", KeyboardInterrupt), ("", None)],
    ids=["failed", "interrupted", "done"],
)
def test_what_a_command_leaves_in_its_group_ends(end: str, raised: type[BaseException] | None, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    words = ["-c", f"{CHILD}\nprint('so')\n{end}", str(told)]
    if raised:
        with pytest.raises(raised):
            output_of(words)
    else:
        assert output_of(words) == "so\n"
    wait_until(lambda: not runs(int(told.read_text())), 60)


def test_an_interrupted_command_that_goes_on_is_killed(tmp_path: Path) -> None:
    """With what it started: it does not hear SIGTERM."""
    told = tmp_path / "pid"
    words = ["-c", f"{CHILD}\ntime.sleep(600)", str(told)]
    asks = f"from benchmarks import command_output\ncommand_output._PATIENCE = 0.1\ncommand_output.output_of({words!r})"
    with subprocess.Popen([sys.executable, "-c", asks], cwd=ROOT, stderr=subprocess.PIPE, text=True) as asking:
        wait_until(told.exists, 60)
        asking.send_signal(signal.SIGINT)
        _, said = asking.communicate(timeout=300)
    assert said.endswith("KeyboardInterrupt\n")
    wait_until(lambda: not runs(int(told.read_text())), 60)


def test_output_that_is_no_result_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module prints the name of the system."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(SoftwareParameters, "command", lambda self: ["platform"])
    with pytest.raises(LoadFailed, match="python -m platform did not print one JSON object"):
        run_software(SoftwareParameters("scale"), say=lambda sentence: None)

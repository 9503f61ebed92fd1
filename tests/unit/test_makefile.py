"""What `make` says when the installation fails."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A virtual environment whose pip fails."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho 'no such package'\nexit 3\n")
    python.chmod(0o755)
    (tmp_path / ".created").touch()
    return tmp_path


def make(venv: Path) -> subprocess.CompletedProcess[str]:
    """Install into a virtual environment."""
    env = {name: value for name, value in os.environ.items() if not name.endswith("MAKEFLAGS")}
    command = ["make", f"VENV={venv}", f"{venv}/.installed-demo"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_a_failed_installation_shows_what_pip_said(venv: Path) -> None:
    done = make(venv)
    assert done.returncode != 0
    assert "no such package\nerror: the installation failed; the reason is above" in done.stderr
    assert not (venv / ".installed-demo").exists()


def test_a_log_that_cannot_be_written_is_not_blamed_on_pip(venv: Path) -> None:
    (venv / "pip-demo.log").mkdir()
    done = make(venv)
    assert done.returncode != 0
    assert "no such package" not in done.stderr
    assert "pip said" not in done.stderr
    assert "irectory" in done.stderr.partition("error: the installation failed; the reason is above")[0]
    assert not (venv / ".installed-demo").exists()

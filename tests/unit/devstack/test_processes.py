"""The demo's commands: what is known of them afterwards, and how they are ended early."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from registry.devstack.processes import ulora
from registry.errors import UloraError


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

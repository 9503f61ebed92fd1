"""The demo's guard: when it counts as started, and how its end is told."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.devstack.guard_server import GuardServer
from registry.errors import LoadFailed


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[GuardServer]:
    guard = GuardServer(tmp_path / "guard", os.environ)
    yield guard
    guard.kill()


def test_it_has_started_once_it_watches(guard: GuardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    watches = "echo 'm at s3://b: watching production'; sleep 600"
    monkeypatch.setattr(guard, "_command", lambda: ["sh", "-c", watches])
    guard.start()
    assert guard.running
    guard.stop()
    assert not guard.running


def test_a_guard_that_does_not_start_is_told_with_its_log(guard: GuardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; print('no such store', flush=True); sys.exit(7)"
    monkeypatch.setattr(guard, "_command", lambda: [sys.executable, "-c", program])
    with pytest.raises(LoadFailed, match=r"(?s)guard server .*exit status 7.*no such store"):
        guard.start()

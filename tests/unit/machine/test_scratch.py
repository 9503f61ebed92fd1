"""Temporary folders of killed processes are removed; those of running processes and other users are not."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from registry.machine.scratch import remove_abandoned, scratch

YESTERDAY = time.time() - 2 * 86400


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left(folder: Path, name: str, when: float = YESTERDAY) -> Path:
    place = folder / name
    place.mkdir()
    (place / "weights").write_bytes(b"x")
    os.utime(place, (when, when))
    return place


def test_an_old_folder_of_a_killed_process_is_removed(temporary: Path) -> None:
    gone = left(temporary, "ulora-log-a")
    kept = [left(temporary, "ulora-log-new", time.time()), left(temporary, "mine")]
    target = left(temporary, "elsewhere")
    (temporary / "ulora-import-link").symlink_to(target)
    with scratch("ulora-import-") as place:
        assert not gone.exists()
        assert place.parent == temporary
    assert not place.exists()
    assert all(folder.exists() for folder in [*kept, target])


def test_an_old_folder_that_is_in_use_stays(temporary: Path) -> None:
    with scratch("ulora-log-") as place:
        os.utime(place, (YESTERDAY, YESTERDAY))
        assert remove_abandoned() == 0
        assert place.exists()


def test_a_thread_that_still_writes_changes_no_interruption(temporary: Path) -> None:
    done = threading.Event()

    def write(place: Path) -> None:
        with suppress(FileNotFoundError):
            for number in count():
                (place / f"late-{number}").write_bytes(b"x")
                if done.is_set():
                    return

    def interrupted() -> None:
        with scratch("ulora-audit-") as place:
            for number in range(3000):
                (place / str(number)).write_bytes(b"x")
            threading.Thread(target=write, args=(place,), daemon=True).start()
            until_written(place / "late-0")
            raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    finally:
        done.set()


def until_written(path: Path) -> None:
    while not path.exists():
        time.sleep(0.001)

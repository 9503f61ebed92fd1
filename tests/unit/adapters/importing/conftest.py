"""Sources to import, copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.other_adapter_layouts import write_peft, write_phase, write_release


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter of each layout, to be copied by tests that only spoil it."""
    folder = tmp_path_factory.mktemp("made")
    write_phase(folder / "phase")
    write_release(folder / "release")
    write_peft(folder / "peft")
    return folder


@pytest.fixture
def phase(made: Path, source: Path) -> Path:
    return shutil.copytree(made / "phase", source)


@pytest.fixture
def release(made: Path, source: Path) -> Path:
    return shutil.copytree(made / "release", source)

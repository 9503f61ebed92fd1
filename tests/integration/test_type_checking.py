"""Type checkers see the package in an environment where it is installed, and accept what the pages show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT, blocks

GIVEN = """
image: bytes
request_id: str
"""
USES = """
label: str | None = registry.load("v1.0.0").predict(image).label
score: list[float | None] = [one.ood_score for one in registry.load("v1.0.0").predict([image])]
with registry.follow("production", LiveOptions(poll=0.5)) as live:
    is_ood: bool = live.predict(image, target="low").is_ood
"""
MISUSES = """
registry.load("v1.0.0").predict(image).lable
registry.load("v1.0.0").predict(image, "low")
registry.follow("production", poll=0.5)
"""


def check(folder: Path, code: str) -> list[str]:
    """The errors that mypy finds in code, outside of this repository."""
    (folder / "example.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "example.py"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]


@pytest.mark.acceptance
def test_the_python_of_the_page_passes_mypy_in_strict_mode(tmp_path: Path) -> None:
    first = next(block.text for block in blocks(ROOT / "docs" / "python.md") if block.language == "python")
    assert check(tmp_path, GIVEN + first + "from registry import LiveOptions\n" + USES) == []


@pytest.mark.acceptance
def test_mypy_finds_what_does_not_exist(tmp_path: Path) -> None:
    wrong = check(tmp_path, GIVEN + "from registry import Registry\nregistry = Registry()\n" + MISUSES)
    assert ["attr-defined" in wrong[0], "call-overload" in wrong[1], "call-arg" in wrong[2]] == [True] * 3

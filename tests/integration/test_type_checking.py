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


@pytest.mark.acceptance
def test_the_page_passes_mypy_strict_and_what_is_wrong_is_found(tmp_path: Path) -> None:
    """In one run, outside of this repository: mypy reads torch for a minute."""
    first = next(block.text for block in blocks(ROOT / "docs" / "python.md") if block.language == "python")
    (tmp_path / "page.py").write_text(GIVEN + first + "from registry import LiveOptions\n" + USES)
    (tmp_path / "wrong.py").write_text(GIVEN + "from registry import Registry\nregistry = Registry()\n" + MISUSES)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "page.py", "wrong.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert [line for line in errors if not line.startswith("wrong.py")] == []
    assert [line.rpartition("[")[2] for line in errors] == ["attr-defined]", "call-overload]", "call-arg]"], done.stderr

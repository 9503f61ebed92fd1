"""The commit that `ulora --version` says: of a checkout, and of nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

from hatch_build import commit_of
from registry.machine.build import _of_checkout, build_commit, version_line

ROOT = Path(__file__).parents[3]


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"]
    return subprocess.run(
        ["git", "-C", folder, *identity, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_checkout_says_its_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert _of_checkout(tmp_path) == commit_of(tmp_path) == "", "it has no commit yet"
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "first")
    assert _of_checkout(tmp_path) == commit_of(tmp_path) == git(tmp_path, "rev-parse", "HEAD")


def test_an_environment_inside_of_another_repository_says_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "of a user's own project")
    site = tmp_path / ".venv" / "site-packages"
    site.mkdir(parents=True)
    assert _of_checkout(site) == commit_of(site) == ""


def test_this_line_agrees_with_git() -> None:
    if (ROOT / ".git").exists():
        assert build_commit() == git(ROOT, "rev-parse", "HEAD")
        assert version_line().endswith(f" (commit {build_commit()[:12]})")
    else:
        assert "commit" not in version_line()

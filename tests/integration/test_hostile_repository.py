"""Creating a version from a folder whose git repository is set to run programs: none of them is run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from registry.api import Registry
from registry.doctor.environment import check_tags
from tests.support.hostile_repository import ATTRIBUTES, git, set_traps
from tests.support.registries import open_registry, small_bundle
from tests.support.run_ulora import ulora
from tests.support.working_trees import write_tree


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache"))
    assert ulora("store", "init").code == 0
    return open_registry(tmp_path / "registry", store_url, model)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A bundle and a project in a repository that holds every trap."""
    folder = write_tree(tmp_path / "repository", {"project/app.py": "one", ".gitattributes": ATTRIBUTES})
    small_bundle(folder / "bundle")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    set_traps(folder, tmp_path / "markers")
    (folder / "project/app.py").touch()  # what git has in its index is older: it would look at the file
    return folder


def run_by(markers: Path) -> list[str]:
    return sorted(file.name for file in markers.iterdir())


def test_creating_runs_nothing_that_a_repository_names(
    registry: Registry, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_COMMITTER_NAME", "a test")
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "test@example.com")
    commit = (repository / ".git/refs/heads").glob("*").__next__().read_text().strip()
    project, bundle = ("--source", repository / "project"), ("--from", repository / "bundle")
    for name, words in (
        ("v1.0.0", (*bundle, "--dry-run")),
        ("v1.0.0", bundle),
        ("v1.1.0", (*project, "--git-tag", "--dry-run")),
        ("v1.1.0", (*project, "--git-tag")),
        ("v1.2.0", (*project, *bundle, "--git-tag")),
    ):
        done = ulora("create", name, *words, "--offline")
        assert done.code == 0, done
    monkeypatch.chdir(repository)
    assert list(check_tags(registry)) == []
    assert run_by(tmp_path / "markers") == []
    assert registry.manifest("v1.1.0").provenance["git_commit"] == commit
    assert (repository / ".git/refs/tags/v1.1.0").is_file()
    directly(repository, "status")
    assert run_by(tmp_path / "markers"), "the traps work"


def test_what_is_missing_is_fetched_from_nowhere(registry: Registry, repository: Path, tmp_path: Path) -> None:
    objects = repository / ".git/objects"
    tree = directly(repository, "rev-parse", "HEAD^{tree}")
    (objects / tree[:2] / tree[2:]).unlink()
    for file in (tmp_path / "markers").iterdir():
        file.unlink()
    done = ulora("create", "v1.0.0", "--from", repository / "bundle", "--offline", "--dry-run", "--json")
    assert done.code == 0, done
    assert run_by(tmp_path / "markers") == []


def directly(folder: Path, *words: str) -> str:
    """Run git in a hostile folder."""
    return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=False).stdout.strip()

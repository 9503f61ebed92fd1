"""Snapshots, `restore` and `switch` through the command line, against the real store and MLflow."""

from __future__ import annotations

import subprocess
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
import pytest

from registry.api import Registry
from registry.errors import LoadFailed, UloraError
from registry.tree.snapshot import Project
from registry.usecases.options import CreateOptions
from tests.support.registries import flip_a_byte, open_registry, small_bundle, write_policy
from tests.support.run_ulora import complains, ulora
from tests.support.working_trees import tree_of, write_tree

PROJECT = {"app.py": "one", "bin/run*": "run", "config/app.yaml": "threshold: 1\n", ".gitignore": "*.log\n"}


@pytest.fixture
def here(tmp_path: Path, store_url: str, model: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a project, an initialised store, and settings in the environment."""
    place = tmp_path / "here"
    write_tree(place / "project", PROJECT)
    monkeypatch.chdir(place)
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ULORA_POLICY", str(write_policy(tmp_path)))
    assert ulora("store", "init").code == 0
    return place


def created(name: str, *more: str) -> None:
    done = ulora("create", name, "--source", "project", "--offline", *more)
    assert done.code == 0, done


def test_a_snapshot_comes_back_with_its_modes(here: Path) -> None:
    write_tree(here / "project", {"debug.log": "not taken"})
    created("v1.0.0")
    done = ulora("restore", "v1.0.0", "--json")
    assert done.code == 0
    assert tree_of(here / "current") == PROJECT
    assert {file["path"]: file["mode"] for file in done.document["added"]}["bin/run"] == "0755"
    assert done.document["undo_command"].startswith("ulora restore --undo ")


def test_an_undo_needs_no_store_and_no_settings(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created("v1.0.0")
    ulora("restore", "v1.0.0")
    write_tree(here / "current", {"app.py": "my edit"})
    undo = ulora("restore", "v1.0.0", "--json").document["undo_command"]
    assert tree_of(here / "current") == PROJECT
    for name in ("ULORA_STORE", "ULORA_MODEL", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    assert ulora(*undo.split()[1:]).code == 0
    assert (here / "current/app.py").read_text() == "my edit"


def test_only_brings_back_just_that_and_says_what_there_is(here: Path) -> None:
    created("v1.0.0")
    ulora("restore", "v1.0.0")
    write_tree(here / "current", {"app.py": "broken", "config/app.yaml": "broken"})
    assert ulora("restore", "v1.0.0", "--only", "config/").code == 0
    assert tree_of(here / "current") == {**PROJECT, "app.py": "broken"}
    complains(ulora("restore", "v1.0.0", "--only", "adapters/"), 5, "has no file or folder adapters/", "bin/, config/")


def test_a_bundle_with_a_project_restores_by_component(here: Path, tmp_path: Path) -> None:
    small_bundle(tmp_path / "bundle")
    done = ulora("create", "v1.0.0", "--from", tmp_path / "bundle", "--source", "project", "--offline", "--json")
    assert done.code == 0, done
    assert ulora("restore", "v1.0.0", "--only", "adapters/low", "--only", "project").code == 0
    found = tree_of(here / "current")
    assert {f"project/{path}": text for path, text in PROJECT.items()}.items() <= found.items()
    assert {path.split("/")[0] for path in found} == {"adapters", "project"}


def test_wrong_options_are_refused_with_a_hint(here: Path) -> None:
    created("v1.0.0")
    (here / "link").symlink_to("project")
    complains(ulora("restore"), 2, "--undo")
    complains(ulora("restore", "v1.0.0", "--undo", "x"), 2, "--undo")
    complains(ulora("restore", "v9.9.9"), 5, "v9.9.9")
    complains(ulora("restore", "v1.0.0", "--target", "link"), 6, "link is a symbolic link", "ulora switch")
    complains(ulora("restore", "v1.0.0", "--target", "/"), 6)
    complains(ulora("restore", "v1.0.0", "--only", ""), 2, "--only '' names no file")
    complains(ulora("restore", "v1.0.0", "--target", "."), 6)
    complains(ulora("switch", "v1.0.0", "--root", "link"), 6, "is a symbolic link")
    complains(ulora("create", "v2.0.0", "--offline"), 2, "--from", "--source")
    complains(ulora("create", "v2.0.0", "--source", "project", "--target", "tomato", "--offline"), 2, "--target")
    complains(ulora("create", "v2.0.0", "--from", "project", "--git-tag", "--offline"), 2, "--source")
    complains(ulora("create", "v1.0.0", "--source", "project", "--allow-secret", "x", "--offline"), 2, "no file 'x'")


def test_a_damaged_version_is_neither_restored_nor_switched_to(here: Path) -> None:
    created("v1.0.0")
    flip_a_byte(Registry(), "v1.0.0", "project/app.py")
    complains(ulora("restore", "v1.0.0"), 6, "corrupt: SHA-256 mismatch (v1.0.0, ")
    complains(ulora("switch", "v1.0.0", "--root", "srv"), 6)
    assert not (here / "current").exists()
    assert not (here / "srv/current").is_symlink()


def test_switch_tells_what_it_was_and_whether_it_is_whole(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created("v1.0.0")
    write_tree(here / "project", {"app.py": "two"})
    created("v2.0.0")
    assert "would make" in ulora("switch", "v1.0.0", "--root", "srv", "--dry-run").out
    ulora("switch", "v1.0.0", "--root", "srv")
    assert "undo it with: ulora switch v1.0.0 --root srv" in ulora("switch", "v2.0.0", "--root", "srv").out
    monkeypatch.delenv("ULORA_STORE")
    assert ulora("switch", "--root", "srv", "--json").document["version"] == "v2.0.0"
    write_tree(here / "srv/current", {"app.py": "edited"})
    complains(ulora("switch", "--root", "srv"), 6, "app.py", "ulora switch v2.0.0")
    complains(ulora("switch", "--root", "elsewhere"), 5)


def test_if_changed_compares_content_with_the_newest_snapshot(here: Path, tmp_path: Path) -> None:
    created("v1.0.0")
    ulora("create", "v9.0.0", "--from", small_bundle(tmp_path / "bundle"), "--offline")
    same = ulora("create", "v1.0.1", "--source", "project", "--if-changed", "--offline", "--json")
    assert (same.code, same.document["is_unchanged"], same.document["version"]) == (0, True, "v1.0.0")
    write_tree(here / "project", {"app.py": "two"})
    created("v1.0.1", "--if-changed")
    write_tree(here / "project", {"app.py": "one"})
    created("v1.0.2", "--if-changed")
    assert [each["version"] for each in ulora("list", "--json").document] == ["v1.0.0", "v1.0.1", "v1.0.2", "v9.0.0"]


def test_credentials_are_refused_before_anything_is_uploaded(here: Path) -> None:
    write_tree(here / "project", {"deploy/.env": "x", "notes": "AKIAQWERTYUIOPASDFGH"})
    refused = ulora("create", "v1.0.0", "--source", "project", "--offline")
    complains(refused, 2, "deploy/.env", "notes (holds an AWS access key)")
    assert [info.key for info in Registry().store.list("blobs/")] == []
    created("v1.0.0", "--allow-secret", "deploy/.env", "--allow-secret", "notes")


def test_a_git_tag_is_created_and_recorded_in_the_version(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "test@example.com")
    _git("init", "-q")
    _git("add", ".")
    _git("commit", "-qm", "first")
    created("v1.0.0", "--git-tag")
    manifest = Registry().manifest("v1.0.0")
    assert manifest.content_sha256 in _git("tag", "-n9", "-l", "v1.0.0")
    assert manifest.provenance["git_tag"] == "v1.0.0"
    _git("tag", "-d", "v1.0.0")
    created("v1.0.0", "--if-changed", "--git-tag")
    assert _git("tag") == "v1.0.0", "run again, it makes the tag that is missing"
    write_tree(here / "project", {"app.py": "two"})
    _git("tag", "v1.1.0")
    _git("commit", "-qam", "second")
    refused = ulora("create", "v1.1.0", "--source", "project", "--git-tag", "--offline")
    complains(refused, 4, "another commit")
    complains(ulora("show", "v1.1.0"), 5)


@pytest.mark.acceptance
def test_a_snapshot_can_be_promoted_but_not_served(
    tmp_path: Path, store_url: str, tracking_uri: str, model: str
) -> None:
    registry = open_registry(tmp_path, store_url, model, tracking_uri=tracking_uri)
    registry.store.initialise()
    project = Project.at(write_tree(tmp_path / "project", PROJECT))
    made = registry.create("v1.0.0", options=CreateOptions(project=project))
    assert made.catalog_number == 1
    assert registry.promote("v1.0.0", "staging").changed
    with pytest.raises(LoadFailed, match="snapshot of files"):
        registry.load("v1.0.0")
    logged = mlflow.pyfunc.load_model(f"models:/{model}@staging")
    with pytest.raises(UloraError, match="can't predict"):
        logged.predict(pd.DataFrame({"nothing": ["x"]}))
    assert registry.restore("v1.0.0", tmp_path / "back").done
    assert tree_of(tmp_path / "back") == PROJECT


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", "project", *words], capture_output=True, text=True, check=True).stdout.strip()

"""Snapshots: which files of a project are included, excluded and refused."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import BadBundle, BadInput, UloraError, UnsafePath, VersionExists
from registry.names import VersionName
from registry.tree.credentials import check_credentials
from registry.tree.git_tag import GitTag, planned_tag
from registry.tree.layout import tree_files
from registry.tree.restore import RestoreRequest, restore
from registry.tree.snapshot import Project, read_project
from registry.tree.switch import switch
from registry.versions.manifest import Manifest
from tests.support.working_trees import Content, Shelf, tree_of, write_tree

SECRETS = {
    "key.txt": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbg==\n",
    "notes.md": "use AKIAQWERTYUIOPASDFGH for the bucket",
    "deploy.sh": "export AWS_SECRET_ACCESS_KEY=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",
    "train.py": 'token = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"',
    "ci.yaml": "token: ghp_abcdefghijklmnopqrstuvwxyz0123456789",
}
HARMLESS = {
    "docs/aws.md": "for example AKIAIOSFODNN7EXAMPLE and wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    ".env.example": "SECRET=",
    "id_rsa.pub": "ssh-rsa AAAA",
    "keys.py": "a = {}",
    "cert.txt": "-----BEGIN CERTIFICATE-----",
}


def taken(folder: Path) -> list[str]:
    return list(Project.at(folder).files)


def test_a_snapshot_has_all_files_below_project_with_modes(tmp_path: Path) -> None:
    project = Project.at(write_tree(tmp_path, {"run.sh*": "run", "src/a.py": "a", ".dotted/file": "d"}))
    bundle = read_project(project)
    assert [(file.path, file.mode) for file in bundle.files] == [
        ("project/.dotted/file", "0644"),
        ("project/run.sh", "0755"),
        ("project/src/a.py", "0644"),
    ]
    assert (bundle.flavor, bundle.backbone, list(bundle.components)) == ("files", None, ["project"])


def test_caches_environments_and_restored_trees_are_excluded(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "src/a.py": "a", "src/a.pyc": "c", "src/__pycache__/a": "c", ".git/config": "g", "sub/.git": "gitdir: x",
            ".venv/bin/python": "p", "env/pyvenv.cfg": "home", "env/lib/x.py": "x", "node_modules/x/y": "n",
            ".pytest_cache/v": "v", ".ruff_cache/v": "v", ".mypy_cache/v": "v", "here.egg-info/PKG": "e",
            ".current.ulora/stash/x": "s", "current/.ulora/restored.json": "{}", "current/app.py": "a",
        },
    )  # fmt: skip
    switch(
        Shelf(tmp_path.parent / "shelf").manifest("v1.0.0", {"x": "x"}),
        tmp_path / "srv",
        Shelf(tmp_path.parent / "shelf").fetch,
    )
    assert taken(tmp_path) == ["src/a.py"]


def test_gitignore_files_count_for_their_folder_and_below(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            ".gitignore": "*.log\n/build/\n!keep.log\nmodels/*.bin\n# data\n", "a.log": "", "keep.log": "", "b.txt": "",
            "build/x": "", "sub/build/x": "", "sub/a.log": "", "sub/.gitignore": "!a.log\nsecret/\n*.tmp",
            "sub/secret/x": "", "sub/deep/secret/y": "", "sub/z.tmp": "", "z.tmp": "", "models/m.bin": "", "m.bin": "",
        },
    )  # fmt: skip
    expected = [
        ".gitignore", "b.txt", "keep.log", "m.bin", "sub/.gitignore", "sub/a.log", "sub/build/x", "z.tmp",
    ]  # fmt: skip
    assert taken(tmp_path) == expected
    if shutil.which("git"):
        _git(tmp_path, "init", "-q")
        listed = _git(tmp_path, "ls-files", "-co", "--exclude-standard").splitlines()
        assert sorted(listed) == expected, "as git itself would have it"


def test_links_are_excluded_and_reported(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.py": "a"})
    (tmp_path / "data").symlink_to("/mnt/data")
    os.mkfifo(tmp_path / "queue")
    project = Project.at(tmp_path)
    assert list(project.files) == ["a.py"]
    assert project.facts() == {"links": {"data": "/mnt/data"}}
    assert [("data -> /mnt/data" in line, "queue" in line) for line in project.cannot_hold()] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize(
    "name",
    [".env", "deep/.env.production", "server.pem", "id_rsa", "id_ed25519_work", "credentials.json", "my.key", ".netrc",
     ".pypirc", "CREDENTIALS", "store.p12", ".git-credentials"],
)  # fmt: skip
def test_files_named_like_credentials_are_refused_unless_allowed(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path, {name: "x", "a.py": "a"})
    paths = read_project(Project.at(tmp_path)).paths
    with pytest.raises(BadInput, match="look like credentials") as refused:
        check_credentials(paths)
    assert name in str(refused.value)
    assert f"--allow-secret {name}" in refused.value.hint
    check_credentials(paths, [f"./{name}"])
    with pytest.raises(BadInput, match="no file 'nothing'"):
        check_credentials(paths, [name, "nothing"])


def test_every_file_that_holds_credentials_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path, {**SECRETS, **HARMLESS})
    paths = read_project(Project.at(tmp_path)).paths
    with pytest.raises(BadInput) as refused:
        check_credentials(paths)
    assert all(f"{name} (holds " in str(refused.value) for name in SECRETS)
    assert not any(f"{name} (" in str(refused.value) for name in HARMLESS)
    check_credentials(paths, list(SECRETS))


def test_a_folder_without_files_to_include_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, {"x.pyc": "x"})
    with pytest.raises(BadBundle):
        Project.at(tmp_path)
    with pytest.raises(BadBundle):
        Project.at(tmp_path / "nowhere")


@pytest.mark.parametrize("names", [("a\nb",), ("Read.me", "read.me"), ("trailing.",)])
def test_file_names_that_a_version_can_not_have_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    write_tree(tmp_path, dict.fromkeys(names, ""))
    with pytest.raises(BadBundle):
        Project.at(tmp_path)


# --- git tags --------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "test@example.com")
    folder = write_tree(tmp_path / "repository", {"a.py": "a"})
    _git(folder, "init", "-q")
    _git(folder, "add", ".")
    _git(folder, "commit", "-qm", "first")
    return folder


def test_a_tag_is_annotated_and_names_the_content(repository: Path) -> None:
    tag = GitTag.planned(repository, VersionName.parse("v1.0.0-x"))
    tag.make("c0ffee")
    assert _git(repository, "cat-file", "-t", "v1.0.0-x") == "tag"
    assert "content c0ffee" in _git(repository, "tag", "-n9", "-l", "v1.0.0-x")
    again = GitTag.planned(repository, VersionName.parse("v1.0.0-x"))
    assert again.exists
    again.make("c0ffee")


def test_a_tag_on_another_commit_is_refused_before_anything(repository: Path) -> None:
    _git(repository, "tag", "v1.0.0")
    write_tree(repository, {"a.py": "b"})
    _git(repository, "commit", "-qam", "second")
    with pytest.raises(VersionExists, match="another commit"):
        GitTag.planned(repository, VersionName.parse("v1.0.0"))


def test_a_dirty_tree_is_reported(repository: Path) -> None:
    told: list[str] = []
    planned_tag(repository, VersionName.parse("v1.0.0"), told.append)
    assert told == []
    write_tree(repository, {"new": "n"})
    planned_tag(repository, VersionName.parse("v1.0.0"), told.append)
    assert "differs from the commit" in told[0]


def test_what_git_can_not_tag_is_refused(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unborn = tmp_path / "unborn"
    unborn.mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for folder, name in ((unborn, "v1.0.0"), (repository, "v1.0.0-a..b"), (None, "v1.0.0")):
        with pytest.raises(BadInput):
            planned_tag(folder, VersionName.parse(name), print)
    _git(unborn, "init", "-q")
    with pytest.raises(BadInput, match="no commit"):
        GitTag.planned(unborn, VersionName.parse("v1.0.0"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UloraError, match="not installed"):
        GitTag.planned(repository, VersionName.parse("v1.0.0"))


def other_repository(repository: Path) -> Path:
    """A repository beside it that is none of its files' business."""
    other = write_tree(repository.parent / "other", {"b.py": "b"})
    _git(other, "init", "-q")
    _git(other, "add", ".")
    _git(other, "commit", "-qm", "other")
    return other


def name_another(repository: Path, other: Path) -> None:
    (repository / ".git").rename(repository.parent / "away")
    (repository / ".git").write_text(f"gitdir: {other}/.git\n")


def name_another_worktree(repository: Path, other: Path) -> None:
    _git(other, "worktree", "add", "-q", str(other.parent / "theirs"))
    name_another(repository, other)
    (repository / ".git").write_text(f"gitdir: {other}/.git/worktrees/theirs\n")


def pretend_to_be_a_worktree(repository: Path, other: Path) -> None:
    name_another(repository, other)
    own = write_tree(
        repository / "worktrees/mine",
        {"gitdir": f"{repository}/.git\n", "commondir": f"{other}/.git\n", "HEAD": _git(other, "rev-parse", "HEAD")},
    )
    (repository / ".git").write_text(f"gitdir: {own}\n")


def pretend_to_be_a_submodule(repository: Path, other: Path) -> None:
    pretend_to_be_a_worktree(repository, other)
    (repository / "worktrees/mine/gitdir").unlink()
    write_tree(repository / "worktrees/mine", {"config": f"[core]\nworktree = {repository}\n"})


def share_another(repository: Path, other: Path) -> None:
    (repository / ".git/commondir").write_text(f"{other}/.git\n")
    (repository / ".git/HEAD").write_text(_git(other, "rev-parse", "HEAD"))


def link_all(repository: Path, other: Path) -> None:
    (repository / ".git").rename(repository.parent / "away")
    (repository / ".git").symlink_to(other / ".git")


def link_below(place: str) -> Callable[[Path, Path], None]:
    def link(repository: Path, other: Path) -> None:
        here = repository / ".git" / place
        if here.exists():
            here.rename(repository.parent / "away")
        here.symlink_to(repository.parent / "away")

    return link


ELSEWHERE = {
    "another": name_another, "another's worktree": name_another_worktree, "a false worktree": pretend_to_be_a_worktree,
    "a false submodule": pretend_to_be_a_submodule, "shared references": share_another, "a link": link_all,
    **{place: link_below(place) for place in ("refs", "refs/tags", "refs/tags/v1.0.0", "objects")},
}  # fmt: skip


@pytest.mark.parametrize("how", ELSEWHERE)
def test_no_tag_is_written_into_another_folder(how: str, repository: Path) -> None:
    other = other_repository(repository)
    ELSEWHERE[how](repository, other)
    with pytest.raises(BadInput, match="written into another folder"):
        GitTag.planned(repository, VersionName.parse("v1.0.0"))
    assert _git(other, "tag") == ""


def test_a_folder_that_changes_before_the_tag_is_refused(repository: Path) -> None:
    tag = GitTag.planned(repository, VersionName.parse("v1.0.0"))
    other = other_repository(repository)
    name_another(repository, other)
    with pytest.raises(BadInput, match="does not name it back"):
        tag.make("c0ffee")
    assert _git(other, "tag") == ""


def test_worktrees_and_submodules_are_tagged(repository: Path) -> None:
    worktree = repository.parent / "worktree"
    _git(repository, "worktree", "add", "-q", str(worktree))
    other = other_repository(repository)
    _git(other, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository), "sub")
    for folder, name in ((worktree, "v1.0.0"), (other / "sub", "v1.1.0")):
        GitTag.planned(folder, VersionName.parse(name)).make("c0ffee")
        assert name in _git(folder, "tag").split()
    assert _git(repository, "tag") == "v1.0.0"
    assert _git(other, "tag") == ""


# --- there and back --------------------------------------------------------------------------------------------------

_TEXT = st.text("abcXYZ é\n", max_size=8)
_TREES = st.dictionaries(st.sampled_from(["a", "b*", "c/d", "c/e*", "ü/f", ".hidden", "g/h/i.txt"]), _TEXT, min_size=1)


@settings(max_examples=30)
@given(_TREES)
def test_a_snapshot_of_a_restored_snapshot_has_the_same_content(
    tmp_path_factory: pytest.TempPathFactory, content: Content
) -> None:
    place = tmp_path_factory.mktemp("there")
    first = _manifest(write_tree(place / "source", content))
    sources = read_project(Project.at(place / "source")).sources
    paths = {sha256: place / "source" / source.path for sha256, source in sources.items()}
    restore(RestoreRequest("v1.0.0", tree_files(first), lambda files: paths), place / "back")
    assert tree_of(place / "back") == content
    assert _manifest(place / "back").content_sha256 == first.content_sha256


@pytest.mark.parametrize("paths", [("README", "project/README"), ("c/d", "project/c"), ("A", "project/a")], ids=str)
def test_no_two_files_of_a_snapshot_have_one_place(paths: tuple[str, str]) -> None:
    manifest = Manifest.make(
        model="plants", version="v1.0.0", flavor="files", backbone=None, components={},
        files=[{"path": path, "size": 1, "sha256": f"{number}" * 64} for number, path in enumerate(paths)],
        timestamp="2026-11-21T12:00:00Z",
    )  # fmt: skip
    with pytest.raises(UnsafePath):
        tree_files(manifest)


def _manifest(folder: Path) -> Manifest:
    bundle = read_project(Project.at(folder))
    return Manifest.make(
        model="plants", version="v1.0.0", flavor=bundle.flavor, backbone=None, components=bundle.components,
        files=bundle.files, timestamp="2026-11-21T12:00:00Z",
    )  # fmt: skip


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True).stdout.strip()

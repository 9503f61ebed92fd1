"""Reading a git repository without its configuration: the same answers as git's own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.errors import UloraError
from registry.machine import programs, provenance, repository
from registry.machine.repository import opened
from tests.support.hostile_repository import git
from tests.support.working_trees import write_tree

CONTENT = {
    "a.py": "a", "bin/run*": "run", "sub/b.py": "b", "sub/deep/c.py": "c", "tracked.log": "t", "logs/kept": "k",
    ".gitignore": "*.log\n/logs/\n", "sub/.gitignore": "!not.log\n", "ü/é.txt": "é",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return committed(write_tree(tmp_path / "repository", CONTENT))


def committed(folder: Path, *how: str) -> Path:
    (folder / "link").symlink_to("a.py")
    git(folder, "init", "-q", *how)
    git(folder, "add", "-f", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def state(folder: Path, below: str = "") -> tuple[str | None, bool | None]:
    with opened(folder / below) as found:
        assert found is not None
        commit = found.commit
        return commit, found.differs(folder / below, commit) if commit else None


def edit(path: str, text: str) -> Callable[[Path], object]:
    return lambda folder: write_tree(folder, {path: text})


def replace_link(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to("bin/run")


CHANGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda folder: (folder / "a.py").touch(),
    "other bytes": edit("a.py", "b"),
    "a tracked file that is ignored": edit("tracked.log", "changed"),
    "a tracked file in an ignored folder": edit("logs/kept", "changed"),
    "a right": lambda folder: (folder / "a.py").chmod(0o755),
    "a missing file": lambda folder: (folder / "sub/deep/c.py").unlink(),
    "a link": replace_link,
    "a link for a file": lambda folder: ((folder / "a.py").unlink(), (folder / "a.py").symlink_to("bin/run")),
    "a new file": edit("sub/new", "n"),
    "a new file that an inner file takes back": edit("sub/not.log", "n"),
    "a new file that is ignored": edit("sub/new.log", "n"),
    "a new file in an ignored folder": edit("logs/new", "n"),
    "a file that the repository's own list ignores": lambda folder: write_tree(
        folder, {".git/info/exclude": "mine\n", "mine": "m"}
    ),
    "a file for a folder": lambda folder: (folder / "sub/deep").rename(folder / "sub/moved"),
    "an empty folder": lambda folder: (folder / "empty").mkdir(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_differs_when_git_says_so(folder: Path, change: str) -> None:
    CHANGES[change](folder)
    expected = {below: bool(git(folder, "status", "--porcelain", "--", f"./{below}")) for below in ("", "sub", "bin")}
    assert {below: state(folder, below)[1] for below in expected} == expected


def test_caches_and_other_things_are_told_apart(folder: Path) -> None:
    write_tree(folder, {"__pycache__/a.pyc": "c"})
    assert state(folder)[1] is False, "a cache is nobody's change"
    os.mkfifo(folder / "queue")
    assert state(folder)[1] is True
    (folder / "queue").unlink()
    (folder / "a.py").unlink()
    os.mkfifo(folder / "a.py")
    assert state(folder)[1] is True


@pytest.mark.parametrize("how", [(), ("--object-format=sha256",)], ids=["sha1", "sha256"])
def test_every_kind_of_repository_is_read(tmp_path: Path, how: tuple[str, ...]) -> None:
    folder = committed(write_tree(tmp_path / "one", CONTENT), *how)
    git(folder, "gc", "-q")
    git(folder, "pack-refs", "--all")
    commit = git(folder, "rev-parse", "HEAD")
    assert state(folder) == (commit, False)
    git(folder, "worktree", "add", "-q", "--detach", str(tmp_path / "two"))
    git(tmp_path / "two", "commit", "-q", "--allow-empty", "-m", "second")
    second = git(tmp_path / "two", "rev-parse", "HEAD")
    assert (state(tmp_path / "two"), state(folder)) == ((second, False), (commit, False))
    write_tree(tmp_path / "two", {"sub/b.py": "changed"})
    assert state(tmp_path / "two", "sub") == (second, True)
    git(folder, "checkout", "-q", "--detach")
    assert state(folder) == (commit, False)


def test_what_is_in_no_repository_has_no_commit(tmp_path: Path, folder: Path) -> None:
    nothing = {"git_commit": None, "git_dirty": None}
    for place in (tmp_path, tmp_path / "nowhere", folder / "a.py"):
        assert provenance.collect(place).items() >= nothing.items()
    git(write_tree(tmp_path / "unborn", {"a": "a"}), "init", "-q")
    assert provenance.collect(tmp_path / "unborn").items() >= nothing.items()
    commit = git(folder, "rev-parse", "HEAD")
    assert provenance.collect(folder / "sub").items() >= {"git_commit": commit, "git_dirty": False}.items()


def test_a_repository_that_never_ends_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit's list of files can be far longer than its objects: each folder twice the one before."""
    monkeypatch.setattr(repository, "MAX_ANSWER", 100)
    commit = git(folder, "rev-parse", "HEAD")
    assert provenance.collect(folder).items() >= {"git_commit": commit, "git_dirty": None}.items()
    monkeypatch.undo()
    monkeypatch.setattr(repository, "_MAX_FILES", 3)
    with pytest.raises(ValueError, match="the commit has more than 3 files"):
        state(folder)
    few = committed(write_tree(folder.parent / "few", {"a.py": "a"}))
    (few / "b/c/d").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"^more than 3 files"):
        state(few)
    (folder / ".git/HEAD").unlink()
    os.mkfifo(folder / ".git/HEAD")
    with opened(folder) as found:
        assert found is None


def commit_of_chains(folder: Path, depth: int, name: str, chains: int) -> str:
    """Commit files that are not there, so many chains of folders with one file each; return the commit's name.

    Each chain is the same one under another name, so that the objects are few and small.
    """
    git(write_tree(folder, {"a.py": "a"}), "init", "-q")
    below = _written(folder, "tree", b"100644 f\0" + _written(folder, "blob", b"x"))
    for _ in range(depth - 1):
        below = _written(folder, "tree", b"40000 %s\0%s" % (name.encode(), below))
    below = _written(folder, "tree", b"".join(b"40000 %04d\0%s" % (number, below) for number in range(chains)))
    who = "a <a@b> 1 +0000"
    text = f"tree {below.hex()}\nauthor {who}\ncommitter {who}\n\nfirst\n"
    commit = _written(folder, "commit", text.encode()).hex()
    git(folder, "update-ref", "HEAD", commit)
    return commit


def _written(folder: Path, kind: str, body: bytes) -> bytes:
    """Write an object, also one that git itself would not make; return its digest."""
    data = b"%s %d\0%s" % (kind.encode(), len(body), body)
    digest = hashlib.sha1(data, usedforsecurity=False)
    file = folder / ".git/objects" / digest.hexdigest()[:2] / digest.hexdigest()[2:]
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(zlib.compress(data))
    return digest.digest()


@pytest.mark.parametrize(
    ("depth", "name", "chains", "expected"),
    [(300, "n" * 1000, 1, None), (60, "n" * 60, 200, True), (65, "n", 1, None), (64, "n" * 100, 1, None)],
    ids=["one long path", "many paths", "too deep", "too long"],
)
def test_a_few_objects_can_not_take_much_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int, name: str, chains: int, expected: bool | None
) -> None:
    """One path of 300 KB has prefixes of 45 MB together."""
    monkeypatch.setattr(repository, "MAX_ANSWER", 1024 * 1024)  # so many bytes are set aside for it
    commit = commit_of_chains(tmp_path / "bomb", depth, name, chains)
    tracemalloc.start()
    try:
        found = provenance.collect(tmp_path / "bomb")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found["git_commit"], found["git_dirty"]) == (commit, expected)
    assert peak < 8 * 1024 * 1024


def _forge(folder: Path, name: str, kind: str, body: bytes) -> None:
    """Put other bytes under an object's name."""
    file = folder / ".git/objects" / name[:2] / name[2:]
    file.chmod(0o644)
    file.write_bytes(zlib.compress(b"%s %d\0%s" % (kind.encode(), len(body), body)))


@pytest.mark.parametrize("place", ["HEAD^{tree}", "HEAD:sub", "HEAD:sub/deep"])
def test_a_forged_folder_is_not_that_of_the_commit(folder: Path, place: str) -> None:
    write_tree(folder, {"sub/b.py": "evil", "sub/deep/c.py": "evil", "a.py": "evil"})
    clean = git(folder, "rev-parse", "HEAD", place).splitlines()
    git(folder, "add", "-u")
    now = git(folder, "write-tree")
    evil = git(folder, "rev-parse", place.replace("HEAD^{tree}", now).replace("HEAD", now))
    kept = subprocess.run(["git", "-C", folder, "cat-file", "tree", evil], capture_output=True, check=True).stdout
    _forge(folder, clean[1], "tree", kept)
    for path in set(CONTENT) & {"a.py", "sub/b.py", "sub/deep/c.py"}:
        below = {"HEAD^{tree}": "", "HEAD:sub": "sub/", "HEAD:sub/deep": "sub/deep/"}[place]
        if not path.startswith(below):
            write_tree(folder, {path: CONTENT[path]})
    assert provenance.collect(folder).items() >= {"git_commit": clean[0], "git_dirty": None}.items()


def test_a_forged_commit_is_not_what_it_is_called(folder: Path) -> None:
    commit = git(folder, "rev-parse", "HEAD")
    write_tree(folder, {"a.py": "evil"})
    git(folder, "add", "-u")
    who = "a <a@b> 1 +0000"
    _forge(folder, commit, "commit", f"tree {git(folder, 'write-tree')}\nauthor {who}\ncommitter {who}\n\nx\n".encode())
    assert provenance.collect(folder)["git_dirty"] is None


def test_a_listing_counts_for_the_time_it_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = folder.parent / "empty"
    empty.mkdir()
    (folder / ".git").rename(empty / ".git")
    monkeypatch.setattr(repository, "_COMPARE_SECONDS", -1)
    with pytest.raises(TimeoutError, match="could not be compared"):
        state(empty)


def test_long_words_of_git_are_not_read(folder: Path) -> None:
    with (folder / ".git/config").open("a") as config:
        config.write(f"[user]\nname = {'n' * 2 * programs.MAX_SAID}\nemail = a@b\n")
    with pytest.raises(UloraError, match="git var answered with more than 65536 bytes"):
        repository.committer(folder)


def test_links_in_a_circle_are_no_repository(folder: Path) -> None:
    (folder / ".git/loop").symlink_to("loop")
    (folder / ".git/commondir").write_text("loop\n")
    assert provenance.collect(folder)["git_commit"] is None


def test_no_program_beside_the_files_is_taken_for_git(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(folder, {"git*": f"#!/bin/sh\ntouch {folder}/ran\n"})
    monkeypatch.setenv("PATH", os.pathsep.join([".", "", os.environ["PATH"]]))
    monkeypatch.chdir(folder)
    assert state(folder)[0]
    repository.committer(folder)
    assert not (folder / "ran").exists()


def test_a_relative_folder_has_the_name_of_its_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GIT_COMMITTER_NAME", raising=False)
    git(folder, "config", "user.name", "Only Here")
    monkeypatch.chdir(folder)
    found = repository.committer(Path())
    assert found
    assert found["GIT_COMMITTER_NAME"] == "Only Here"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("config", [b"\n" * 60_000, b"worktree=" + b" " * 60_000 + b'""x'], ids=["lines", "spaces"])
def test_no_configuration_takes_long_to_read(folder: Path, config: bytes) -> None:
    """Patterns whose stars share what they take would need hours for the second one."""
    moved = (folder / ".git").rename(folder.parent / "moved")
    (folder / ".git").write_text(f"gitdir: {moved}\n")
    (moved / "config").write_bytes(config)
    with opened(folder) as found:
        assert found is not None
        assert "does not name it back" in str(found.tag_elsewhere("v1.0.0"))

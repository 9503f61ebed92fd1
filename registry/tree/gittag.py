"""An annotated git tag that names the commit which a version was made from."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from registry.errors import BadInput, UloraError, VersionExists
from registry.names import VersionName

_SECONDS = 60


@dataclass(frozen=True)
class GitTag:
    """A tag that can be made: everything that could refuse it was looked at before.

    Attributes:
        name: the version's name.
        commit: what it is to name.
        is_dirty: whether the folder differs from that commit.
        exists: whether the tag is there already, on that commit.
    """

    folder: Path
    name: str
    commit: str
    is_dirty: bool
    exists: bool

    @classmethod
    def planned(cls, folder: Path, version: VersionName) -> GitTag:
        """Look whether a folder's commit can get a version's tag.

        Raises:
            BadInput: git is not installed, the folder is in no repository, nothing was committed, git does not know
                who you are, or can't have a tag of this name.
            VersionExists: the tag is on another commit.
        """
        name = str(version)
        if _git(folder, "rev-parse", "--git-dir") is None:
            raise BadInput(f"{folder} is in no git repository, so it can't be tagged", hint="leave --git-tag out")
        commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        if not commit:
            raise BadInput(f"{folder} has no commit that could be tagged", hint="commit first, or leave --git-tag out")
        if _git(folder, "check-ref-format", f"refs/tags/{name}") is None:
            raise BadInput(f"git can't have a tag {name}", hint="choose another name, or leave --git-tag out")
        if not _git(folder, "var", "GIT_COMMITTER_IDENT"):
            raise BadInput("git does not know who you are", hint="git config user.name …; git config user.email …")
        tagged = _git(folder, "rev-parse", "--verify", "--quiet", f"refs/tags/{name}^{{commit}}")
        if tagged and tagged != commit:
            raise VersionExists(
                f"the git tag {name} is on another commit ({tagged[:12]}, not {commit[:12]}); nothing was done",
                hint="choose the next name, or check that commit out",
            )
        is_dirty = bool(_git(folder, "status", "--porcelain", "--", "."))
        return cls(folder, name, commit, is_dirty, exists=bool(tagged))

    def make(self, content_sha256: str) -> None:
        """Make the tag, unless it is there.

        Raises:
            UloraError: git refuses.
        """
        if self.exists:
            return
        done = _run(self.folder, "tag", "-a", self.name, "-m", f"{self.name}\n\ncontent {content_sha256}", self.commit)
        if done.returncode != 0:
            raise UloraError(
                f"{self.name} was created, but git could not tag it: {done.stderr.strip()[:300]}",
                hint="run the same command again: it only makes the tag",
            )


def planned_tag(folder: Path | None, version: VersionName, say: Callable[[str], None]) -> GitTag:
    """The tag for a project's folder; `say` is told where the folder differs from what is tagged.

    Raises:
        BadInput: there is no folder. And as `GitTag.planned`.
    """
    if folder is None:
        raise BadInput("only a project can be tagged", hint="add --source DIR, or leave --git-tag out")
    tag = GitTag.planned(folder, version)
    if tag.is_dirty:
        say(f"{folder} differs from the commit {tag.commit[:12]} that the tag {tag.name} is put on")
    return tag


def _git(folder: Path, *words: str) -> str | None:
    done = _run(folder, *words)
    return done.stdout.strip() if done.returncode == 0 else None


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True, text=True, timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        )  # fmt: skip
    except FileNotFoundError as error:
        raise BadInput("git is not installed, so nothing can be tagged", hint="leave --git-tag out") from error
    except subprocess.TimeoutExpired as error:
        raise UloraError(f"git {words[0]} did not end in {_SECONDS} s", hint="run the same command again") from error

"""Create an annotated git tag on the commit that a version was made from."""

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
    """A git tag that can be created: all reasons to refuse it were checked before.

    Attributes:
        name: the version's name.
        commit: the commit that it names.
        is_dirty: whether the folder differs from that commit.
        exists: whether the tag already exists, on that commit.
    """

    folder: Path
    name: str
    commit: str
    is_dirty: bool
    exists: bool

    @classmethod
    def planned(cls, folder: Path, version: VersionName) -> GitTag:
        """Check whether the commit of a folder can be tagged with a version's name.

        Raises:
            BadInput: git is not installed, the folder is not in a repository, there is no commit, git has no user
                name, or refuses a tag of this name.
            VersionExists: the tag is on another commit.
        """
        name = str(version)
        if _git(folder, "rev-parse", "--git-dir") is None:
            raise BadInput(f"{folder} is not in a git repository, so it can't be tagged", hint="omit --git-tag")
        commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        if not commit:
            raise BadInput(f"{folder} has no commit to tag", hint="commit first, or omit --git-tag")
        if _git(folder, "check-ref-format", f"refs/tags/{name}") is None:
            raise BadInput(f"git does not allow a tag {name}", hint="choose another name, or omit --git-tag")
        if not _git(folder, "var", "GIT_COMMITTER_IDENT"):
            raise BadInput("git has no user name and email", hint="git config user.name …; git config user.email …")
        tagged = _git(folder, "rev-parse", "--verify", "--quiet", f"refs/tags/{name}^{{commit}}")
        if tagged and tagged != commit:
            raise VersionExists(
                f"the git tag {name} is on another commit ({tagged[:12]}, not {commit[:12]}); nothing was created",
                hint="choose the next name, or check out that commit",
            )
        is_dirty = bool(_git(folder, "status", "--porcelain", "--", "."))
        return cls(folder, name, commit, is_dirty, exists=bool(tagged))

    def make(self, content_sha256: str) -> None:
        """Create the tag, unless it exists.

        Raises:
            UloraError: git refuses.
        """
        if self.exists:
            return
        done = _run(self.folder, "tag", "-a", self.name, "-m", f"{self.name}\n\ncontent {content_sha256}", self.commit)
        if done.returncode != 0:
            raise UloraError(
                f"{self.name} was created, but git could not tag it: {done.stderr.strip()[:300]}",
                hint="run the same command again: it only creates the tag",
            )


def planned_tag(folder: Path | None, version: VersionName, say: Callable[[str], None]) -> GitTag:
    """The tag for a project's folder; `say` gets a line if the folder differs from the tagged commit.

    Raises:
        BadInput: there is no folder, or git can't tag it, see `GitTag.planned`.
        VersionExists: the tag is on another commit.
    """
    if folder is None:
        raise BadInput("only a project can be tagged", hint="add --source DIR, or omit --git-tag")
    tag = GitTag.planned(folder, version)
    if tag.is_dirty:
        say(f"{folder} differs from the commit {tag.commit[:12]}, which gets the tag {tag.name}")
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
        raise BadInput("git is not installed, so nothing can be tagged", hint="omit --git-tag") from error
    except subprocess.TimeoutExpired as error:
        raise UloraError(
            f"git {words[0]} did not finish within {_SECONDS} s", hint="run the same command again"
        ) from error

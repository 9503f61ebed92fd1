"""Create an annotated git tag on the commit that a version was made from.

It is made in the repository without the repository's hooks and settings, see `registry.machine.repository`, and it is
not signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.errors import BadInput, UloraError, VersionExists
from registry.machine.repository import Repository, committer, opened
from registry.names import VersionName


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
            BadInput: git is not installed, the folder is not in a repository, the tag might be written into another
                folder, there is no commit, git has no user name, or refuses a tag of this name.
            VersionExists: the tag is on another commit.
        """
        name = str(version)
        with _repository(folder, name) as repository:
            commit = repository.commit
            if not commit:
                raise BadInput(f"{folder} has no commit to tag", hint="commit first, or omit --git-tag")
            if repository.ask("check-ref-format", f"refs/tags/{name}") is None:
                raise BadInput(f"git does not allow a tag {name}", hint="choose another name, or omit --git-tag")
            if not committer(folder):
                raise BadInput("git has no user name and email", hint="git config user.name …; git config user.email …")
            tagged = repository.ask("rev-parse", "--verify", "--quiet", f"refs/tags/{name}^{{commit}}")
            if tagged and tagged != commit:
                raise VersionExists(
                    f"the git tag {name} is on another commit ({tagged[:12]}, not {commit[:12]}); nothing was created",
                    hint="choose the next name, or check out that commit",
                )
            return cls(folder, name, commit, repository.differs(folder, commit), exists=bool(tagged))

    def make(self, content_sha256: str) -> None:
        """Create the tag, unless it exists.

        Raises:
            BadInput: by now it might be written into another folder.
            UloraError: git refuses.
        """
        if self.exists:
            return
        words = ("tag", "-a", self.name, "-m", f"{self.name}\n\ncontent {content_sha256}", self.commit)
        with _repository(self.folder, self.name) as repository:
            done = repository.run(*words, env=committer(self.folder) or {})
        if done.code != 0:
            raise UloraError(
                f"{self.name} was created, but git could not tag it: {done.err.strip()[:300]}",
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


@contextmanager
def _repository(folder: Path, tag: str) -> Iterator[Repository]:
    """The repository of a folder, which a tag of this name stays in."""
    try:
        with opened(folder) as repository:
            if repository is None:
                raise BadInput(f"{folder} is not in a git repository, so it can't be tagged", hint="omit --git-tag")
            if problem := repository.tag_elsewhere(tag):
                raise BadInput(
                    f"{folder} can't be tagged, because the tag might be written into another folder: {problem}",
                    hint="omit --git-tag, and make the tag with git",
                )
            yield repository
    except (OSError, ValueError) as error:
        raise UloraError(f"the repository of {folder} can't be read: {error}", hint="omit --git-tag") from error

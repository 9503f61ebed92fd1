"""A git repository, read without doing anything that it says.

A repository's configuration, hooks and attributes may name programs, and git runs them for questions as harmless as
whether a file has changed. So git never sees the repository: it runs in a scratch folder whose configuration is ours,
and which borrows the repository's HEAD, references and objects by links. Files are compared by their hashes, as they
are: no filter runs.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from registry.errors import UloraError
from registry.formats.bounded import open_regular
from registry.machine.git_trees import MAX_DEPTH, check_trees
from registry.machine.gitignore import IgnoreRules, is_cache
from registry.machine.programs import MAX_ANSWER, MAX_SAID, GitAnswer, ask_git
from registry.machine.scratch import scratch
from registry.machine.source_folder import SourceFolder

_GIT = ".git"
_SECONDS = 20
_COMPARE_SECONDS = 20
_MAX_TEXT = 64 * 1024
_MAX_FILES = 100_000
_MAX_PATH = 4096
"""Bytes of the longest path that the system can open (PATH_MAX). A commit may name longer ones."""
_CHUNK = 1024 * 1024
_SHARED = ("objects", "refs", "packed-refs", "reftable")
# One line each, in which no two stars can share what they take: other patterns take for ever on some configurations.
_SHA256 = re.compile(rb'^[ \t]*objectformat[ \t]*=[ \t]*"?sha256"?[ \t\r]*$', re.IGNORECASE | re.MULTILINE)
_REFTABLE = re.compile(rb'^[ \t]*refstorage[ \t]*=[ \t]*"?reftable"?[ \t\r]*$', re.IGNORECASE | re.MULTILINE)
_WORKTREE = re.compile(rb"^[ \t]*worktree[ \t]*=(?P<path>.*)$", re.IGNORECASE | re.MULTILINE)
_WRITTEN = (
    "refs", "refs/tags", "reftable", "reftable/tables.list", "objects", *(f"objects/{n:02x}" for n in range(256)),
)  # fmt: skip
"""What git writes a tag into, besides the file of the tag itself."""
_ENTRY = re.compile(rb"[^\0]+")
_LINK, _FILE, _PROGRAM = b"120000", b"100644", b"100755"
_WHO = re.compile(r"(?P<name>.*) <(?P<email>[^<>]*)> (?P<date>\d+ [+-]\d{4})")
_OF_A_PERSON = (
    "EMAIL", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM",
    "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "GIT_COMMITTER_DATE", "GIT_CEILING_DIRECTORIES",
)  # fmt: skip
"""Variables that say who acts, or where a person's configuration lies."""


@dataclass(frozen=True)
class Repository:
    """A repository that can be asked.

    Attributes:
        root: the folder whose files it holds.
        own: the folder that the root's `.git` is or names.
        common: the folder with the references and objects; another one in a linked worktree.
        borrowed: the scratch folder in which git runs.
        hash_name: `sha1` or `sha256`, the digest that it names objects by.
        exclude: its own file of ignored patterns, `info/exclude`.
    """

    root: Path
    own: Path
    common: Path
    borrowed: Path
    hash_name: str
    exclude: Path

    @property
    def commit(self) -> str | None:
        """The commit that is checked out, None if there is none."""
        return self.ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}")

    def ask(self, *words: str) -> str | None:
        """What git answers to a command, None if it refuses.

        Raises:
            BadInput, TimeoutError, UloraError: see `ask_git`.
        """
        done = self.run(*words)
        return done.out.decode("utf-8", "replace").strip() if done.code == 0 else None

    def run(
        self,
        *words: str,
        env: Mapping[str, str] = MappingProxyType({}),
        at_most: int = MAX_SAID,
        question: bytes = b"",
    ) -> GitAnswer:
        """Run a git command that answers with at most so many bytes, with more variables if it needs them, and what it
        reads from standard input.

        Raises:
            BadInput, TimeoutError, UloraError: see `ask_git`.
        """
        own = str(self.borrowed)
        ours = {
            "GIT_DIR": own, "HOME": own, "XDG_CONFIG_HOME": own, "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ATTR_NOSYSTEM": "1",
        }  # fmt: skip
        env = {**env, **ours}
        return ask_git(words, cwd=self.borrowed, seconds=_SECONDS, env=env, at_most=at_most, question=question)

    def tag_elsewhere(self, name: str) -> str | None:
        """Why a tag of this name might be written into another folder, None if it stays in this repository.

        Whoever made the files may have put a `.git` there that leads to any repository on this machine. A linked
        worktree and a submodule have such a one as well, but what theirs names, names them back.
        """
        named = self.root / _GIT
        if named.is_symlink():
            return f"{named} is a link"
        if named.is_file() and not self._is_worktree(named) and not self._is_submodule():
            return f"{named} names {self.own}, which does not name it back"
        if named.is_dir() and _real(self.common) != _real(self.own):
            return f"{self.own}/commondir names {self.common}"
        places = (self.common / place for place in (*_WRITTEN, f"refs/tags/{name}"))
        return next((f"{place} is a link" for place in places if place.is_symlink()), None)

    def _is_worktree(self, named: Path) -> bool:
        back = _path(_text(self.own / "gitdir"))
        is_named = back != "" and _real(self.own / back) == _real(named)
        return is_named and _real(self.own).parent == _real(self.common) / "worktrees"

    def _is_submodule(self) -> bool:
        found = _WORKTREE.search(_text(self.own / "config"))
        is_named = found is not None and _real(self.own / _path(_unquoted(found["path"]))) == self.root
        return is_named and _real(self.own) == _real(self.common)

    def differs(self, folder: Path, commit: str) -> bool:
        """Whether a folder in it is not as a commit has it: a file changed, is missing, or is neither in the commit nor
        ignored by a `.gitignore` or as a cache.

        Bytes, the right to execute, and the targets of links count. What git stores in another form than the folder has
        it (by a filter such as LFS, or with other line ends) counts as changed, and so do the files of a submodule.

        Raises:
            TimeoutError: it takes too long.
            OSError, ValueError: a file can't be read, there are too many, the commit has a path that is too long, or an
                object of it is not what its name says.
            UloraError: see `ask_git`.
        """
        below = "".join(f"{part}/" for part in _real(folder).relative_to(self.root).parts)
        listed = self.run("ls-tree", "-r", "-z", "--full-tree", commit, at_most=MAX_ANSWER)
        if listed.code != 0:
            raise UloraError(f"git can't list {commit}: {listed.err.strip()[:300]}")
        comparison = _Comparison(self, below)
        check_trees(self, commit, MAX_ANSWER, comparison.check_time)
        return comparison.finds_a_difference(listed.out)


@contextmanager
def opened(folder: Path) -> Iterator[Repository | None]:
    """The repository that a folder is in, None if it is in none.

    Raises:
        OSError: it can't be read.
    """
    found = _git_folder(folder)
    if found is None:
        yield None
        return
    root, own = found
    common = own / _path(_text(own / "commondir"))
    config = _text(common / "config")
    hash_name = "sha256" if _SHA256.search(config) else "sha1"
    with scratch("ulora-git-") as place:
        borrowed = _borrow(common, place / "common", _SHARED)
        extensions = [f"objectformat = {hash_name}"] * (hash_name != "sha1")
        extensions += ["refstorage = reftable"] * bool(_REFTABLE.search(config))
        text = f"[core]\nrepositoryformatversion = {int(bool(extensions))}\nbare = true\nhooksPath = {os.devnull}\n"
        (borrowed / "config").write_text(text + "\n".join(["[extensions]", *extensions, ""]))
        if _real(own) != _real(common):  # a linked worktree
            borrowed = _borrow(own, place / "own", ("reftable",))
            (borrowed / "commondir").write_text("../common\n")
        yield Repository(root, own, common, borrowed, hash_name, common / "info" / "exclude")


def committer(folder: Path) -> dict[str, str] | None:
    """Who acts and when, as git's configuration and the environment say it, as variables for `Repository.run`.

    This one question is asked in the repository itself, because its configuration may name a person. To answer it, git
    reads configuration as text, and neither objects nor files.

    Returns:
        None if git knows no name or no email.

    Raises:
        BadInput, TimeoutError, UloraError: see `ask_git`.
    """
    env = {name: value for name in _OF_A_PERSON if (value := os.environ.get(name)) is not None}
    done = ask_git(("var", "GIT_COMMITTER_IDENT"), cwd=folder, seconds=_SECONDS, env=env)
    found = _WHO.fullmatch(done.out.decode("utf-8", "replace").strip()) if done.code == 0 else None
    return {f"GIT_COMMITTER_{key.upper()}": value for key, value in found.groupdict().items()} if found else None


def _real(path: Path) -> Path:
    """A path without links, as far as there is one: `Path.resolve` raises RuntimeError where links lead in a circle."""
    return Path(os.path.realpath(path))


def _git_folder(folder: Path) -> tuple[Path, Path] | None:
    """The nearest folder above with a repository, and that repository's own folder."""
    here = _real(folder)
    for root in (here, *here.parents) if here.is_dir() else ():
        own = root / _GIT
        if own.is_file():
            own = root / _path(_text(own).removeprefix(b"gitdir:"))
        if (own / "HEAD").is_file():
            return root, own
    return None


def _borrow(source: Path, place: Path, names: tuple[str, ...]) -> Path:
    place.mkdir()
    (place / "HEAD").write_bytes(_text(source / "HEAD"))
    for name in names:
        if (source / name).exists():
            (place / name).symlink_to(_real(source / name))
    return place


def _unquoted(value: bytes) -> bytes:
    """A value of a configuration, without the quotes that may be around it."""
    return value.strip().removeprefix(b'"').removesuffix(b'"')


def _path(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape").strip()


def _text(file: Path) -> bytes:
    """The content of a small file, empty if there is none."""
    if not file.is_file():
        return b""
    with open_regular(file) as opened_file:
        return opened_file.read(_MAX_TEXT)


class _Comparison:
    """Compares a folder with a commit's files, until there is a difference or no time left."""

    def __init__(self, repository: Repository, below: str) -> None:
        self._repository = repository
        self._root = SourceFolder(repository.root)
        self._below = below
        self._tracked: dict[bytes, tuple[bytes, str]] = {}
        self._paths: list[bytes] = []
        self._left = _MAX_FILES
        self._deadline = time.monotonic() + _COMPARE_SECONDS

    def finds_a_difference(self, listed: bytes) -> bool:
        """Whether the folder differs from what `git ls-tree -z` lists."""
        self._tracked = dict(self._entries(listed))
        self._paths = sorted(self._tracked)
        rules = IgnoreRules(check_time=self.check_time).with_file("", _text(self._repository.exclude))
        seen = 0
        for path, kind in self._walk("", rules, is_ignored=False):
            tracked = self._tracked.get(os.fsencode(path))
            if tracked is None or not self._is_same(path, kind, *tracked):
                return True
            seen += 1
        return seen < len(self._tracked)

    def _entries(self, listed: bytes) -> Iterator[tuple[bytes, tuple[bytes, str]]]:
        """Path, and mode and digest, of a commit's files below the folder.

        Whoever made the commit chose the paths: a few small objects can name a path of gigabytes.
        """
        prefix = os.fsencode(self._below)
        for number, entry in enumerate(_ENTRY.finditer(listed)):
            self.check_time()
            facts, path = entry[0].split(b"\t", 1)
            if number >= _MAX_FILES:
                raise ValueError(f"the commit has more than {_MAX_FILES} files")
            if len(path) > _MAX_PATH or path.count(b"/") > MAX_DEPTH:
                raise ValueError(f"the commit has a path of {len(path)} bytes, {path.count(b'/')} folders deep")
            if path.startswith(prefix):
                mode, _, digest = facts.split()
                yield path, (mode, digest.decode())

    def _has_tracked(self, folder: bytes) -> bool:
        """Whether the commit has a file below a folder, whose path ends with a `/`."""
        at = bisect.bisect_left(self._paths, folder)
        return at < len(self._paths) and self._paths[at].startswith(folder)

    def _walk(self, here: str, rules: IgnoreRules, *, is_ignored: bool) -> Iterator[tuple[str, int]]:
        """The files below a folder that are tracked or not ignored, each with the mode that says its kind; `here` is
        its path, with a `/` at the end."""
        if here.count("/") > MAX_DEPTH:
            raise ValueError(f"{here} is nested more than {MAX_DEPTH} folders deep")
        rules = rules if is_ignored else rules.in_folder(here, self._root)
        for each, info in self._root.entries(here):
            path = here + each
            is_folder = stat.S_ISDIR(info.st_mode)
            if each == _GIT or not self._concerns(f"{path}/" if is_folder else path):
                continue
            self._count()
            skip = is_ignored or is_cache(each) or rules.exclude(path, is_folder=is_folder)
            if is_folder:
                if not skip or self._has_tracked(os.fsencode(f"{path}/")):
                    yield from self._walk(f"{path}/", rules, is_ignored=skip)
            elif not skip or os.fsencode(path) in self._tracked:
                yield path, info.st_mode

    def _concerns(self, path: str) -> bool:
        return path.startswith(self._below) or self._below.startswith(path)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"more than {_MAX_FILES} files")
        self.check_time()

    def check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimeoutError(f"the files could not be compared within {_COMPARE_SECONDS} s")

    def _is_same(self, path: str, kind: int, mode: bytes, digest: str) -> bool:
        if stat.S_ISLNK(kind):
            target = os.fsencode(self._root.read_link(path))
            return mode == _LINK and self._digest(len(target), iter([target])) == digest
        if not stat.S_ISREG(kind):
            return False
        with self._root.open(path) as file:
            info = os.fstat(file.fileno())
            actual = _PROGRAM if info.st_mode & stat.S_IXUSR else _FILE
            return mode == actual and self._digest(info.st_size, iter(lambda: file.read(_CHUNK), b"")) == digest

    def _digest(self, size: int, chunks: Iterator[bytes]) -> str:
        """The name that git gives to a blob."""
        digest = hashlib.new(self._repository.hash_name, b"blob %d\0" % size, usedforsecurity=False)
        for chunk in chunks:
            self.check_time()
            digest.update(chunk)
        return digest.hexdigest()

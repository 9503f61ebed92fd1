"""Check that a commit's folders are those that its name stands for.

A commit is named by the digest of its bytes, which name its tree, which names its files and folders. Git does not
compute the digests of folders below the first when it lists a commit: an object of other bytes under the right name
passes. So they are computed here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Protocol

from registry.errors import UloraError
from registry.machine.programs import GitAnswer

MAX_DEPTH = 64
"""Folders in folders."""
_TREE = re.compile(rb"tree ([0-9a-f]+)\n")
_ENTRY = re.compile(rb"([0-7]{5,7}) [^\0]+\0")
_KIND, _FOLDER = 0o170000, 0o040000


class Asked(Protocol):
    """A repository that can be asked; `registry.machine.repository.Repository` is one."""

    @property
    def hash_name(self) -> str: ...
    def run(self, *words: str, at_most: int, question: bytes) -> GitAnswer: ...


def check_trees(repository: Asked, commit: str, at_most: int, check_time: Callable[[], None]) -> None:
    """Check the digests of a commit and of all its folders.

    Args:
        at_most: bytes of all of them together; each is read once, however many names it has.
        check_time: raises an error when it has taken too long.

    Raises:
        ValueError: an object is not what its name says, malformed or missing, or there are too many folders in folders.
        BadInput, TimeoutError, UloraError: see `ask_git`.
    """
    names, seen = {commit}, {commit}
    for _ in range(MAX_DEPTH + 2):  # the commit, and its first tree
        check_time()
        question = "".join(f"{name}\n" for name in sorted(names)).encode()
        answer = repository.run("cat-file", "--batch", at_most=at_most, question=question)
        if answer.code != 0:
            raise UloraError(f"git can't read the folders of {commit}: {answer.err.strip()[:300]}")
        at_most -= len(answer.out)
        names = set()
        for kind, body in _objects(answer.out, repository.hash_name):
            check_time()
            names.update(_folders_of(kind, body, repository.hash_name))
        names -= seen
        if not names:
            return
        seen |= names
    raise ValueError(f"{commit} has more than {MAX_DEPTH} folders in each other")


def _objects(answer: bytes, hash_name: str) -> Iterator[tuple[bytes, bytes]]:
    """Kind and bytes of each object in an answer of `git cat-file --batch`, after a look at its digest."""
    at = 0
    while at < len(answer):
        end = answer.find(b"\n", at)
        name, kind, *size = answer[at:end].split(b" ")
        if not size:
            raise ValueError(f"the object {name.decode(errors='replace')[:64]} is {kind.decode(errors='replace')[:64]}")
        body = answer[end + 1 : end + 1 + int(size[0])]
        digest = hashlib.new(hash_name, b"%s %d\0" % (kind, len(body)), usedforsecurity=False)
        digest.update(body)
        if digest.hexdigest().encode() != name:
            raise ValueError(f"the object {name.decode()} has other bytes than its name says")
        yield kind, body
        at = end + 1 + len(body) + 1


def _folders_of(kind: bytes, body: bytes, hash_name: str) -> Iterator[str]:
    """The names of the trees that a commit or a tree names."""
    if kind == b"commit":
        if not (found := _TREE.match(body)):
            raise ValueError("a commit names no tree")
        yield found[1].decode()
        return
    size, at = hashlib.new(hash_name, usedforsecurity=False).digest_size, 0
    while at < len(body):
        entry = _ENTRY.match(body, at)
        if kind != b"tree" or entry is None:
            raise ValueError("a folder of a commit is malformed")
        at = entry.end() + size
        if int(entry[1], 8) & _KIND == _FOLDER:
            yield body[entry.end() : at].hex()

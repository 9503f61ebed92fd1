"""Objects that the store refuses one by one: a writer may have encrypted one with a key of its own. Or it lists one
that it says is not there: its listing, or its answer, is out of date.

Each is a problem of that object, and must hide no other. Where all that are asked for are refused, it is about who
asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from registry.errors import NotAsListed, ObjectNotFound, StoreDenied
from registry.parallel import in_parallel

MAY_NOT = "may not be read"
"""What is said of such an object. It is not called damaged: it may be whole."""

Found = TypeVar("Found")


@contextmanager
def as_listed() -> Iterator[None]:
    """Read an object that was listed, and that nobody deletes: one that is not there is refused.

    Raises:
        NotAsListed: it is not there.
    """
    try:
        yield
    except ObjectNotFound as error:
        raise NotAsListed(error.key) from error


class Refusals:
    """The refusals among several reads. Any thread may note one."""

    def __init__(self) -> None:
        self._denied: list[StoreDenied] = []

    def note(self, error: Exception) -> None:
        """Note an error, if it is a refusal."""
        if isinstance(error, StoreDenied):
            self._denied.append(error)

    def check(self, number: int) -> None:
        """Check that not all of so many reads were refused.

        Raises:
            StoreDenied: they were.
        """
        if self._denied and len(self._denied) == number:
            raise self._denied[0]


def read_each(read: Callable[[str], Found | None], keys: Sequence[str]) -> list[Found | None]:
    """What `read` gives for each key, and None for an object that is refused.

    Raises:
        StoreDenied: all of them are.
    """
    refusals = Refusals()

    def read_one(key: str) -> Found | None:
        try:
            return read(key)
        except StoreDenied as error:
            refusals.note(error)
            return None

    found = in_parallel(read_one, keys)
    refusals.check(len(keys))
    return found

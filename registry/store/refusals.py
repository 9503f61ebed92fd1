"""Objects that the store refuses one by one: a writer may have encrypted one with a key of its own. Or it lists one
that it says is not there: its listing, or its answer, is out of date.

Or its server fails for one, with each retry. Each is a problem of that object, and must hide no other. Where all that
are asked for are refused, it is about who asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import TypeVar

from registry.errors import NotAsListed, NotGiven, ObjectNotFound, StoreDenied, StoreUnreachable
from registry.parallel import in_parallel

MAY_NOT = "may not be read"
"""What is said of such an object. It is not called damaged: it may be whole."""

MOST_ALONE = 32
"""Objects for which the store may fail while one command looks: with more of them it counts as away, as each is asked
for several times."""
_FAILURES: ContextVar[count[int] | None] = ContextVar("failures", default=None)

Found = TypeVar("Found")


@contextmanager
def each_by_itself() -> Iterator[None]:
    """Let the failure of one object be a refusal of it alone (`NotGiven`) inside, in all threads that are begun there:
    for what shows what there is. What decides or changes something stops where the store fails."""
    token = _FAILURES.set(count(1))
    try:
        yield
    finally:
        _FAILURES.reset(token)


@contextmanager
def by_itself(answers: Callable[[], bool]) -> Iterator[None]:
    """Read one object. `answers` asks the store for another one.

    Raises:
        NotGiven: inside `each_by_itself`, the store fails for this object and answers.
        StoreUnreachable: it does not answer; or it fails for too many, or outside of `each_by_itself`.
    """
    try:
        yield
    except StoreUnreachable as error:
        failures = _FAILURES.get()
        if failures is None or next(failures) > MOST_ALONE or not answers():
            raise
        raise NotGiven(f"{error}; others it gives", hint=error.hint) from error


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

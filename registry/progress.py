"""How long work reports to its caller. One convention for the whole package; the default is silence.

* `Progress`: called with the number of bytes (or items) done since the last call; the caller knows the total.
* `OpenProgress`: where only the work knows the total: called with it, gives a `Progress` for a `with`.
* `Say`: called with one line of text for a person.

A parameter `progress` takes one of the first two, a parameter `say` the third.

Threads call them at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Progress = Callable[[int], None]
OpenProgress = Callable[[int], AbstractContextManager[Progress]]
Say = Callable[[str], None]


def no_progress(done: int) -> None:
    """A `Progress` that does nothing."""


def open_no_progress(total: int) -> AbstractContextManager[Progress]:
    """An `OpenProgress` that does nothing."""
    return nullcontext(no_progress)


def say_nothing(line: str) -> None:
    """A `Say` that does nothing."""


def ignore(found: object) -> None:
    """A callback for results, as they are found, that does nothing."""

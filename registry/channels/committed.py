"""What is known of a record that was sent, for whatever ends the command: it must not hide that the channel has moved.

`Channel.commit` notes it, and the command line tells it before an error or an interrupt, unless it was told before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class CommitWatch:
    """Holds what is known of the newest record that was sent inside of `watched_commits`; empty if there is nothing to
    tell. `is_sent` says whether a record may have been written, told or not."""

    def __init__(self) -> None:
        self.known, self.is_sent = "", False


_WATCH: ContextVar[CommitWatch | None] = ContextVar("commit_watch", default=None)


@contextmanager
def watched_commits() -> Iterator[CommitWatch]:
    """Note what is sent inside, in this thread and those that it starts by `registry.parallel`."""
    watch = CommitWatch()
    token = _WATCH.set(watch)
    try:
        yield watch
    finally:
        _WATCH.reset(token)


@contextmanager
def sending(channel: str, serves: str, generation: int) -> Iterator[None]:
    """Send a record inside: what ends it without an answer leaves the outcome unknown."""
    watch = _WATCH.get() or CommitWatch()
    what = f"{channel} serves {serves}, generation {generation}"
    watch.is_sent, was_sent = True, watch.is_sent
    watch.known = f"not known whether {what}: that record was sent, and the store had not answered (`ulora status`)"
    try:
        yield
    except Exception:  # it was not taken; `OutcomeUnknown` says itself that nobody knows
        watch.known, watch.is_sent = "", was_sent
        raise
    watch.known = f"{what}: that record is written (`ulora status`)"


def told() -> None:
    """The command has said what it did, or what was known holds no more."""
    if watch := _WATCH.get():
        watch.known = ""

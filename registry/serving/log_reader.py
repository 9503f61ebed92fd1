"""Read a channel's log from the record that was read last to the newest one, over an unbroken chain."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TypeVar

from registry.channels.channel import check_link
from registry.channels.record import Record
from registry.errors import BrokenChain, ObjectNotFound, StoreUnreachable
from registry.parallel import in_parallel, within
from registry.serving.pinned import FollowedLog

_LIST_EVERY = 30
"""After so many reads the log is listed: only a listing shows that the log was replaced by an older copy."""
_SINGLE_LOOKS = 4
"""After so many records in a row the log is listed, so that the rest can be read in parallel."""
_BATCH = 64
"""Records that one look reads in parallel, so that it stays short however far this replica is behind."""
_MAX_HANGING = 4
"""Looks that hang at a time: each has a thread."""

_PAUSE = 0.2
"""Seconds between two tries of a first read."""

Result = TypeVar("Result")


class LogReader:
    """Reads one channel's log. Only one thread may use it.

    Each record must name the sha256 of the one before, back to the record that was read first, however many there are.
    """

    def __init__(self, channel: FollowedLog) -> None:
        self._channel = channel
        self._seen: Record | None = None
        self._reads_since_list = 0
        self._hanging = 0
        self._counting = threading.Lock()

    def read(self, seconds: float) -> Record | None:
        """The newest record, None for an empty log. Each look at the store may take at most so many seconds.

        Raises:
            BrokenChain: the log is shorter than it was, or does not continue what was read before.
            StoreUnreachable: a look took longer, or the store does not answer.
            UloraError: the log can't be read.
        """
        reads, self._reads_since_list = self._reads_since_list, 0  # after an error the next read lists
        found, is_newest, looks = self._seen, False, 0
        while not is_newest:
            found, is_newest = self._within(seconds, partial(self._look, found, reads == 0 or looks >= _SINGLE_LOOKS))
            looks += 1
        # Not before the whole way was checked: if a record in between was replaced, the right one may come back.
        self._seen = found
        self._reads_since_list = (reads + 1) % _LIST_EVERY
        return found

    def read_persistently(self, seconds: float) -> Record | None:
        """The newest record. A store that does not answer is asked again until so many seconds are over.

        Raises:
            StoreUnreachable: it has not answered in all that time.
            UloraError: the log can't be read.
        """
        ends = time.monotonic() + seconds
        while True:
            try:
                return self.read(max(_PAUSE, ends - time.monotonic()))
            except StoreUnreachable:
                if time.monotonic() + _PAUSE >= ends:
                    raise
            time.sleep(_PAUSE)

    def resume(self, seen: Record) -> None:
        """Take a record for the one that was read last: the next read must find it in the log, or what continues it."""
        self._seen = seen

    def _look(self, seen: Record | None, lists: bool) -> tuple[Record | None, bool]:
        """A newer record than `seen`, or the same; and whether it is known to be the newest."""
        if seen is None:
            return self._channel.head(), True
        if lists:
            return self._look_from_the_end(seen)
        following = self._channel.next(seen.generation)
        if following is None:
            return seen, True
        return self._follow(seen, [following]), False

    def _look_from_the_end(self, seen: Record) -> tuple[Record, bool]:
        head = self._channel.head()
        if head is None or head.generation < seen.generation:
            return self._look_by_name(seen, head)
        if head.generation == seen.generation:
            if head.sha256 != seen.sha256:
                raise _regressed(seen, head)
            return seen, True
        last = min(head.generation, seen.generation + _BATCH)
        try:
            between = in_parallel(self._channel.read, range(seen.generation + 1, last))
            newest = head if last == head.generation else self._channel.read(last)
        except ObjectNotFound as error:
            raise BrokenChain(f"broken chain: {error}; generation {seen.generation} is still served") from error
        return self._follow(seen, [*between, newest]), last == head.generation

    def _look_by_name(self, seen: Record, head: Record | None) -> tuple[Record, bool]:
        """Where the listing ends before `seen`: it may be out of date, or the log was replaced by an older one."""
        try:
            found = self._channel.read(seen.generation)
        except ObjectNotFound as error:
            raise _regressed(seen, head) from error
        if found.sha256 != seen.sha256:
            raise _regressed(seen, head)
        following = self._channel.next(seen.generation)
        return (self._follow(seen, [following]), False) if following else (seen, True)

    def _follow(self, seen: Record, records: list[Record]) -> Record:
        """The last of some records, each of which must continue the one before."""
        try:
            for older, newer in pairwise([seen, *records]):
                check_link(older, newer)
        except BrokenChain as error:
            raise BrokenChain(f"broken chain: {error}; generation {seen.generation} is still served") from error
        return records[-1]

    def _within(self, seconds: float, act: Callable[[], Result]) -> Result:
        """Call a function with a deadline. After that its thread is left behind, a few at most."""
        if self._hanging >= _MAX_HANGING:
            raise StoreUnreachable(f"{self._hanging} earlier reads of the log still hang")

        def run() -> Result:
            with self._counting:
                self._hanging += 1
            try:
                return act()
            finally:
                with self._counting:
                    self._hanging -= 1

        try:
            return within(seconds, run, "ulora-log-reader")
        except TimeoutError as error:
            raise StoreUnreachable(f"the store did not answer within {seconds:.3g} s") from error


def _regressed(seen: Record, head: Record | None) -> BrokenChain:
    return BrokenChain(
        f"regressed: the log ends at generation {head.generation if head else 0} with another history than the one "
        f"seen up to generation {seen.generation}, which is still served"
    )

"""Publish: upload blobs, then commit what refers to them, so that no garbage collection deletes them in between.

The creator's side of the protocol that `registry.retention.prune` describes; C1 to C4 are its steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from registry.errors import KeyExists, NotNow
from registry.formats.local_file import LocalFile
from registry.parallel import in_parallel
from registry.progress import Progress, no_progress
from registry.store import layout
from registry.store.cache import Described
from registry.store.gc_marks import MarksRead, is_older_than_mark, read_marks
from registry.store.storage import Storage

_PATIENCE = 60.0
_PAUSE = 0.5
_ROUNDS = 5
_GUESS_AFTER = 32
_SMALL = 64 * 1024
"""Bytes."""

Done = TypeVar("Done")
Local = Callable[[Described], AbstractContextManager[LocalFile]]
"""Gives a file on this disk that holds a blob's bytes, for as long as it is uploaded."""


@dataclass(frozen=True)
class Published(Generic[Done]):
    """The sizes, by digest, of the blobs that were sent, and what the commit returned."""

    sent: Mapping[str, int]
    value: Done

    @property
    def uploaded(self) -> int:
        """The bytes that were sent."""
        return sum(self.sent.values())


@dataclass
class _Publication:
    store: Storage
    files: dict[str, Described]
    local: Local
    progress: Progress
    patience: float
    sent: dict[str, int] = field(default_factory=dict)
    absent: int = 0
    """How many blobs in a row were not there: a guess at the next one, so it does not matter which thread counts."""

    def settle(self) -> MarksRead:
        """C1 and C2: repeat until every blob is there, none is older than its mark, and `gc.json` did not change."""
        marks = self.wait()
        for _ in range(_ROUNDS):
            self.upload_missing()
            in_parallel(partial(self._renew, marks), self.files.keys() & marks.marked.keys())
            before, marks = marks, self.wait()
            if marks.etag == before.etag:
                return marks
        raise NotNow("garbage collections kept changing what is marked", hint="run the same command again: it is safe")

    def upload_missing(self) -> None:
        """One HEAD a blob, and the bytes of those that are not there.

        After many that were not there, small ones are sent without asking: of a new project's hundreds of files the
        question costs as much as the file. The write is conditional, so a wrong guess costs a small request.
        """
        in_parallel(self._upload_if_missing, self.files.values())

    def wait(self) -> MarksRead:
        """Wait until no sweep is deleting any of these blobs."""
        give_up = time.monotonic() + self.patience
        while True:
            marks = read_marks(self.store)
            if not self.files.keys() & marks.deleting:
                return marks
            if time.monotonic() > give_up:
                raise NotNow(
                    f"a garbage collection by {marks.who} is deleting files that are needed again",
                    hint=f"run the same command again, in {marks.free_in / 60:.0f} min at the latest: it finishes",
                )
            time.sleep(_PAUSE)

    def confirm(self, before: MarksRead) -> None:
        """C4: upload again what a sweep deleted between C2 and the commit."""
        if read_marks(self.store).etag != before.etag:
            self.wait()
            self.upload_missing()

    def _upload_if_missing(self, file: Described) -> None:
        is_asked = self.absent < _GUESS_AFTER or file.size > _SMALL
        if is_asked and self.store.holds(layout.blob(file.sha256), file.sha256, file.size):
            self._is_there(file)
            return
        self.absent += 1
        with self.local(file) as found:
            is_new = self.store.upload(layout.blob(file.sha256), found, file.sha256, file.size, self.progress)
        if is_new:
            self.sent[file.sha256] = file.size
        else:
            self._is_there(file)

    def _is_there(self, file: Described) -> None:
        self.absent = 0
        self.progress(file.size)

    def _renew(self, marks: MarksRead, digest: str) -> None:
        """Write a blob anew if it is older than its mark."""
        file, key = self.files[digest], layout.blob(digest)
        info = self.store.head(key)
        if info and is_older_than_mark(info, marks.marked[digest]):
            with self.local(file) as found, suppress(KeyExists):  # another creator has just written it anew
                self.store.replace(key, found, file.sha256, file.size, info.etag)
                self.sent[file.sha256] = file.size


def publish(
    store: Storage,
    files: Iterable[Described],
    local: Local,
    commit: Callable[[], Done],
    progress: Progress = no_progress,
    *,
    patience: float = _PATIENCE,
) -> Published[Done]:
    """Upload what is missing of `files`, then `commit` what refers to them. Running it again uploads nothing twice.

    Args:
        local: gives the bytes of a blob if they are needed.
        patience: seconds to wait for a garbage collection that is deleting some of them.

    Raises:
        NotNow: that did not end in time; run it again.
        CorruptBlob: a file is not what its digest says, or the store holds other bytes under it.
    """
    publication = _Publication(store, {file.sha256: file for file in files}, local, progress, patience)
    marks = publication.settle()
    done = commit()
    publication.confirm(marks)
    return Published(publication.sent, done)

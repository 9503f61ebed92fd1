"""Publish: upload blobs, then commit what refers to them, so that no garbage collection can come between.

The creator's side of the protocol that `registry.store.gc` describes; C1 to C4 are its steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from registry.errors import KeyExists, NotNow
from registry.store import layout
from registry.store.blobs import Described, Progress, in_parallel
from registry.store.gc import MarksRead, is_old, read_marks
from registry.store.storage import Storage

_PATIENCE = 60.0
_PAUSE = 0.5
_ROUNDS = 5

Done = TypeVar("Done")
Local = Callable[[Described], AbstractContextManager[Path]]
"""Gives a file on this disk that holds a blob's bytes, for as long as it is uploaded."""


@dataclass(frozen=True)
class Published(Generic[Done]):
    """What came of it: the sizes, by digest, of the blobs that travelled, and what the commit returned."""

    sent: Mapping[str, int]
    value: Done

    @property
    def uploaded(self) -> int:
        """The bytes that travelled."""
        return sum(self.sent.values())


@dataclass
class _Publication:
    store: Storage
    files: dict[str, Described]
    local: Local
    progress: Progress
    patience: float
    sent: dict[str, int] = field(default_factory=dict)

    def settle(self) -> MarksRead:
        """C1 and C2: all is there and nothing older than its mark, while no sweep began, went on or ended."""
        seen = self.wait()
        for _ in range(_ROUNDS):
            self.upload_missing()
            in_parallel(partial(self._renew, seen), self.files.keys() & seen.doomed.keys())
            before, seen = seen, self.wait()
            if seen.etag == before.etag:
                return seen
        raise NotNow("garbage was collected again and again meanwhile", hint="run the same command again: it is safe")

    def upload_missing(self) -> None:
        """One HEAD a blob, and the bytes of those that are not there."""
        in_parallel(self._upload_if_missing, self.files.values())

    def wait(self) -> MarksRead:
        """Until no sweep is deleting anything of ours."""
        give_up = time.monotonic() + self.patience
        while True:
            seen = read_marks(self.store)
            if not self.files.keys() & seen.deleting:
                return seen
            if time.monotonic() > give_up:
                raise NotNow(
                    f"a garbage collection by {seen.who} is deleting files that are needed again",
                    hint=f"run the same command again, in {seen.free_in / 60:.0f} min at the latest: it finishes",
                )
            time.sleep(_PAUSE)

    def confirm(self, seen: MarksRead) -> None:
        """C4: what a sweep took between C2 and the commit is put back."""
        if read_marks(self.store).etag != seen.etag:
            self.wait()
            self.upload_missing()

    def _upload_if_missing(self, file: Described) -> None:
        info = self.store.head(layout.blob(file.sha256))
        if info and (info.size, info.sha256) == (file.size, file.sha256):
            self.progress(file.size)
        else:
            self._upload(file)

    def _upload(self, file: Described) -> None:
        with self.local(file) as path:
            self.store.upload(layout.blob(file.sha256), path, file.sha256, file.size, self.progress)
        self.sent[file.sha256] = file.size

    def _renew(self, seen: MarksRead, digest: str) -> None:
        """Write a blob anew if it is older than its mark."""
        file, key = self.files[digest], layout.blob(digest)
        info = self.store.head(key)
        if info and is_old(info, seen.doomed[digest]):
            with self.local(file) as path, suppress(KeyExists):  # another creator's by now, as new as ours
                self.store.replace(key, path, file.sha256, file.size, info.etag)
                self.sent[file.sha256] = file.size


def publish(
    store: Storage,
    files: Iterable[Described],
    local: Local,
    commit: Callable[[], Done],
    progress: Progress = lambda done: None,
    *,
    patience: float = _PATIENCE,
) -> Published[Done]:
    """Upload what is missing of `files`, then `commit` what refers to them. Running it again uploads nothing twice.

    Args:
        local: where the bytes of a blob are to be had, should they be needed.
        patience: seconds to wait for a garbage collection that is deleting some of them.

    Raises:
        NotNow: it did not end in time; run it again.
        CorruptBlob: a file is not what its digest says, or the store holds other bytes under it.
    """
    publication = _Publication(store, {file.sha256: file for file in files}, local, progress, patience)
    seen = publication.settle()
    done = commit()
    publication.confirm(seen)
    return Published(publication.sent, done)

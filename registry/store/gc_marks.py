"""`gc.json`: which blobs are marked for deletion, and which a sweep is deleting at this moment.

`registry.retention.prune` writes it and explains the protocol; `registry.store.publishing` reads it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from registry.errors import BadManifest, KeyExists, NotNow, ObjectNotFound
from registry.formats.counts import counted
from registry.formats.document import Document, DocumentPart, Sha256
from registry.store import layout
from registry.store.cache import Described
from registry.store.object_info import ObjectInfo
from registry.store.objects import ObjectStore
from registry.store.storage import Storage

LEASE = timedelta(minutes=10)
"""How long a sweep's claim of deletions holds."""
MAX_MARKED = 100_000
"""Blobs that are marked at a time; the rest waits for a later pass."""
RUN_AGAIN = "run the same command again when it is done"


def _check_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without a zone")
    return text


class Mark(DocumentPart):
    """Blobs that a pass found unreferenced; `when` it began, by the server's clock."""

    when: Annotated[str, Field(max_length=40), AfterValidator(_check_time)]
    blobs: tuple[Sha256, ...]

    @property
    def time(self) -> datetime:
        """`when`, parsed."""
        return datetime.fromisoformat(self.when)


class Marks(Document):
    """The document `gc.json`. The only shared object that is ever overwritten.

    Attributes:
        marks: what is marked for deletion, oldest first.
        deleting: of those, what the sweep that wrote this deletes, while the lease lasts: its claim.
        nonce: makes the bytes unique to their writer.
    """

    format: Literal[1]
    marks: tuple[Mark, ...] = ()
    deleting: tuple[Sha256, ...] = ()
    who: str = Field(max_length=256)
    nonce: str = Field(min_length=16, max_length=64)

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if sum(len(mark.blobs) for mark in self.marks) > MAX_MARKED:
            raise ValueError(f"more than {MAX_MARKED} blobs are marked")
        return self

    @classmethod
    def of(cls, marked: Mapping[str, datetime], who: str, deleting: Iterable[str] = ()) -> Marks:
        """Marks from blobs and the times since when they are marked."""
        by_time = sorted((when, digest) for digest, when in marked.items())
        marks = tuple(
            Mark(when=when.isoformat(), blobs=tuple(digest for _, digest in pairs))
            for when, pairs in groupby(by_time, key=lambda pair: pair[0])
        )
        return cls(format=1, marks=marks, deleting=tuple(sorted(deleting)), who=who[:256], nonce=secrets.token_hex(16))


@dataclass(frozen=True)
class MarksRead:
    """What `gc.json` said when it was read.

    Attributes:
        marked: the blobs marked for deletion, each with the time of its mark.
        deleting: what is being deleted; empty once the lease of the claim is over.
        free_at: when the lease is over, by the server's clock; `free_in` the seconds until then.
        etag: a condition for the next swap, None where there is no `gc.json` yet.
    """

    marked: Mapping[str, datetime]
    deleting: frozenset[str]
    free_at: datetime | None
    free_in: float
    who: str
    etag: str | None

    def check_free(self) -> None:
        """Raises: NotNow: a sweep is deleting."""
        if self.deleting:
            blobs = counted(len(self.deleting), "blob")
            raise NotNow(
                f"a garbage collection by {self.who} is deleting {blobs}; nothing changed",
                hint=f"run the same command again when it is done, in {self.free_in / 60:.0f} min at the latest",
            )


def read_marks(store: Storage) -> MarksRead:
    """What `gc.json` says now. One round trip.

    Raises:
        BadManifest: it is damaged.
    """
    try:
        stored = store.get(layout.GC_KEY)
    except ObjectNotFound:
        return MarksRead({}, frozenset(), None, 0.0, "", None)
    try:
        marks = Marks.parse(stored.body, layout.GC_KEY)
    except BadManifest as error:
        raise BadManifest(
            str(error), hint=f"delete {layout.GC_KEY} in the bucket when no gc runs: garbage is then marked anew"
        ) from error
    free_in = LEASE.total_seconds() - stored.age
    return MarksRead(
        marked={digest: mark.time for mark in marks.marks for digest in mark.blobs},
        deleting=frozenset(marks.deleting) if free_in > 0 else frozenset(),
        free_at=stored.modified + LEASE,
        free_in=max(free_in, 0.0),
        who=marks.who,
        etag=stored.etag,
    )


def is_older_than_mark(info: ObjectInfo | None, mark: datetime) -> bool:
    """Whether a blob is gone, or was last written before it was marked: nobody has published it since."""
    return info is None or info.modified is None or info.modified < mark


def unmark(store: ObjectStore, files: Iterable[Described], who: str) -> None:
    """Remove the marks of some blobs: no sweep deletes them within a grace period from now.

    Raises:
        NotNow: a sweep is deleting, or another one was first.
    """
    read = read_marks(store)
    read.check_free()
    digests = {file.sha256 for file in files}
    if digests & read.marked.keys():
        kept = {digest: when for digest, when in read.marked.items() if digest not in digests}
        try:
            store.swap(layout.GC_KEY, Marks.of(kept, who).to_bytes(), read.etag)
        except KeyExists as error:
            raise NotNow("a garbage collection began just now; nothing changed", hint=RUN_AGAIN) from error

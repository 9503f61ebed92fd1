"""Prune: delete blobs that nothing refers to, in two passes at least a grace apart, beside creators that may need them.

`gc.json` says which blobs are marked as doomed and since when (by the server's clock), and which a sweep is deleting at
this moment. It is only ever swapped under the condition that it is what was read, so two sweeps can't interleave.

A sweep                                             A creator (`registry.store.publishing`)
  S1  reads gc.json, then the server's clock          C1  reads gc.json; waits while one of its blobs is being deleted;
  S2  reads what is referred to, lists the blobs          uploads what is missing, writes anew what is older than its
  S3  claims: swaps gc.json, naming what it deletes       mark
  S4  reads again what is referred to                 C2  reads gc.json; unless it is as before, all over again
  S5  looks at each blob again, deletes it if it      C3  binds the name: from here on the blobs are referred to
      is older than its mark                          C4  reads gc.json; if it changed since C2: waits as in C1, then
  S6  swaps gc.json: the claim ends, what else is         uploads again what a sweep took
      unreferenced is marked

Only blobs marked a grace ago are deleted, so a creator whose C2 and C3 are less than a grace apart has seen the mark.
* C3 before S4: the sweep sees the binding and spares the blobs.
* S3 before C2: the creator sees the claim, or what came after it, and begins again when it has ended.
* C2, S3, S4, C3: the creator has written its marked blobs anew before the claim, S5 finds them younger than their
  mark and spares them. So a creator that dies after C3 leaves a whole version, and one that dies before C3 none.
* A mark set between C2 and C3 (S6) kills nothing before a grace is over, and the next sweep sees the binding; should
  the grace be as short as that, C4 puts back what was taken.
* A sweep that dies keeps its claim for `LEASE`. By the server's clock, as each look of S5 tells it, it starts no
  deletion near the end of that; and it sends none twice after one look. So when others take the claim for void, none
  is under way, however long its machine has slept. What it has not deleted stays marked.

What no look can rule out: a machine that is put to sleep between a look and the deletion that follows at once, and that
wakes up when the claim is over. So let it run where machines do not sleep.

A version that a partial rollback composes has no creator with files. It needs none: its blobs are those of the live
version and of one on the stack, which are referred to before, while and after its name is bound.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, islice
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from registry.errors import BadManifest, KeyExists, NotNow, ObjectNotFound, StoreUnreachable, UloraError
from registry.formats.document import Document, DocumentPart, Sha256
from registry.store import layout
from registry.store.blobs import Described, in_parallel
from registry.store.objects import ObjectInfo, ObjectStore
from registry.store.storage import Storage

GRACE = timedelta(hours=24)
LEASE = timedelta(minutes=10)
"""How long a claim of deletions holds."""
_LANDING = timedelta(minutes=2)
"""Before the end of its lease in which a sweep starts no deletion: longer than one takes that the server still does."""
_TRIES = 3
MAX_MARKED = 100_000
"""Blobs that are marked at a time; the rest waits for a later pass."""
_TELL_EVERY = 10_000
_GIVEN_UP = timedelta(hours=24)
"""After which an upload in parts that was not completed will never be."""
_AGAIN = "run the same command again when it is done"


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
    """`gc.json`. The only shared object that is ever overwritten.

    Attributes:
        marks: what is doomed, oldest first.
        deleting: of those, what the sweep that wrote this deletes, while the lease lasts.
        nonce: makes the bytes their writer's own.
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
    def of(cls, doomed: Mapping[str, datetime], who: str, deleting: Iterable[str] = ()) -> Marks:
        """Marks from blobs and the times since when they are doomed."""
        by_time = sorted((when, digest) for digest, when in doomed.items())
        marks = tuple(
            Mark(when=when.isoformat(), blobs=tuple(digest for _, digest in pairs))
            for when, pairs in groupby(by_time, key=lambda pair: pair[0])
        )
        return cls(format=1, marks=marks, deleting=tuple(sorted(deleting)), who=who[:256], nonce=secrets.token_hex(16))


@dataclass(frozen=True)
class MarksRead:
    """What `gc.json` said when it was read.

    Attributes:
        doomed: the marked blobs, each with the time of its mark.
        deleting: what is being deleted; empty once the lease of the claim is over.
        free_at: when that is, by the server's clock; `free_in` the seconds until then.
        etag: a condition for the next swap, None where there is no `gc.json` yet.
    """

    doomed: Mapping[str, datetime]
    deleting: frozenset[str]
    free_at: datetime | None
    free_in: float
    who: str
    etag: str | None

    def check_free(self) -> None:
        """Raises: NotNow: a sweep is deleting."""
        if self.deleting:
            raise NotNow(
                f"a garbage collection by {self.who} is deleting {len(self.deleting)} blobs; nothing changed",
                hint=f"run the same command again when it is done, in {self.free_in / 60:.0f} min at the latest",
            )


@dataclass(frozen=True)
class Pruned:
    """What a pass of prune did, or would do. Sizes are in bytes.

    Attributes:
        deleted: blobs that were deleted; `doomed` those that are marked now and still there.
        left: marked long enough ago, but not deleted: the lease was over first. The next pass goes on.
        next_pass: from when on, by the server's clock, another pass may delete the first of those that are doomed.
        uploads: large uploads that were begun and given up long ago, and were dropped; None where the server, or our
            rights, do not let us see to them.
    """

    deleted: int
    deleted_size: int
    doomed: int
    doomed_size: int
    left: int
    next_pass: str | None
    uploads: int | None = 0


@dataclass(frozen=True)
class PrunePlan:
    """What a pass of prune is about to do.

    Attributes:
        seen: what `gc.json` said.
        ripe: what may be deleted now; `waiting` what is marked, or will be, with the times of the marks.
        sizes: of all these blobs.
    """

    seen: MarksRead
    ripe: Mapping[str, datetime]
    waiting: Mapping[str, datetime]
    sizes: Mapping[str, int]

    def outcome(self, deleted: Collection[str], grace: timedelta, uploads: int | None = 0) -> Pruned:
        """The figures, when some of what is ripe was deleted."""
        left = self.ripe.keys() - set(deleted)
        doomed = [*self.waiting, *left]
        oldest = min(self.waiting.values(), default=None)
        return Pruned(
            deleted=len(deleted),
            deleted_size=sum(self.sizes[digest] for digest in deleted),
            doomed=len(doomed),
            doomed_size=sum(self.sizes[digest] for digest in doomed),
            left=len(left),
            next_pass=(oldest + grace).isoformat() if oldest else None,
            uploads=uploads,
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
        doomed={digest: mark.time for mark in marks.marks for digest in mark.blobs},
        deleting=frozenset(marks.deleting) if free_in > 0 else frozenset(),
        free_at=stored.modified + LEASE,
        free_in=max(free_in, 0.0),
        who=marks.who,
        etag=stored.etag,
    )


def is_old(info: ObjectInfo | None, mark: datetime) -> bool:
    """Whether a blob is gone, or was last written before it was marked: nobody has asked for it since."""
    return info is None or info.modified is None or info.modified < mark


def unmark(store: ObjectStore, files: Iterable[Described], who: str) -> None:
    """Take blobs off the list of what is doomed: no sweep deletes them within a grace from now.

    Raises:
        NotNow: a sweep is deleting, or another one was first.
    """
    seen = read_marks(store)
    seen.check_free()
    digests = {file.sha256 for file in files}
    if digests & seen.doomed.keys():
        kept = {digest: when for digest, when in seen.doomed.items() if digest not in digests}
        try:
            store.swap(layout.GC_KEY, Marks.of(kept, who).to_bytes(), seen.etag)
        except KeyExists as error:
            raise NotNow("a garbage collection began just now; nothing changed", hint=_AGAIN) from error


@dataclass(frozen=True)
class Prune:
    """A pass over all blobs of a store.

    Attributes:
        references: gives the digests of all blobs that anything refers to. Asked twice.
        say: told what is going on, a line at a time.
    """

    store: ObjectStore
    references: Callable[[], frozenset[str]]
    who: str
    grace: timedelta = GRACE
    say: Callable[[str], None] = lambda line: None

    def plan(self) -> PrunePlan:
        """What to do, S1 and S2. Nothing is written.

        Raises:
            NotNow: another sweep is deleting.
            IntegrityError: something could not be read: then nobody knows what it refers to.
        """
        seen = read_marks(self.store)
        seen.check_free()
        now = self.store.now()
        referenced = self.references()
        ripe: dict[str, datetime] = {}
        waiting: dict[str, datetime] = {}
        sizes: dict[str, int] = {}
        for digest, info in self._unreferenced(referenced):
            mark = seen.doomed.get(digest)
            marked = mark if mark and is_old(info, mark) else now
            (ripe if marked == mark and now - marked >= self.grace else waiting)[digest] = marked
            sizes[digest] = info.size
        return PrunePlan(seen, ripe, dict(islice(waiting.items(), MAX_MARKED - len(ripe))), sizes)

    def run(self) -> Pruned:
        """Delete what was marked a grace ago and is garbage still; mark what is garbage now.

        Raises:
            NotNow: another sweep is deleting, or was first; it says how much this one has deleted by then.
            IntegrityError: something could not be read. Nothing was deleted.
        """
        plan = self.plan()
        deleted: set[str] = set()
        seen = plan.seen
        if plan.ripe:
            seen = self._claim(plan)
            try:
                self._sweep(plan, seen, deleted)
            except StoreUnreachable:
                raise  # a deletion may still be under way: the claim stands until that is over by itself
            except BaseException:
                with suppress(UloraError):
                    self._end(plan, deleted, seen)
                raise
        self._end(plan, deleted, seen)
        return plan.outcome(deleted, self.grace, self._drop_uploads())

    # --- parts -------------------------------------------------------------------------------------------------------

    def _unreferenced(self, referenced: frozenset[str]) -> Iterable[tuple[str, ObjectInfo]]:
        for count, info in enumerate(self.store.list(layout.BLOBS_PREFIX)):
            if count % _TELL_EVERY == 0 and count:
                self.say(f"{count} blobs listed")
            digest = info.key.rpartition("/")[2]
            if digest not in referenced and info.key == layout.blob(digest):
                yield digest, info

    def _claim(self, plan: PrunePlan) -> MarksRead:
        """S3: from now on creators see what is being deleted."""
        marks = Marks.of({**plan.waiting, **plan.ripe}, self.who, deleting=plan.ripe)
        self._swap(marks, plan.seen)
        claimed = read_marks(self.store)
        if claimed.deleting != frozenset(plan.ripe):
            raise NotNow("another garbage collection took over; nothing was deleted", hint=_AGAIN)
        return claimed

    def _sweep(self, plan: PrunePlan, claim: MarksRead, deleted: set[str]) -> None:
        """S4 and S5: delete what is ripe unless somebody refers to it by now, or has written it anew."""
        referenced = self.references()
        ripe = [digest for digest in plan.ripe if digest not in referenced]
        self.say(f"deleting {len(ripe)} blobs")
        assert claim.free_at is not None  # noqa: S101  it was read
        give_up = claim.free_at - _LANDING

        def delete(digest: str) -> None:
            if self._delete(layout.blob(digest), plan.ripe[digest], give_up):
                deleted.add(digest)

        in_parallel(delete, ripe)

    def _delete(self, key: str, mark: datetime, give_up: datetime) -> bool:
        """S5 for one blob: whether it was deleted. Before each try it is looked at, which tells the time as well."""
        for tries_left in reversed(range(_TRIES)):
            info = self.store.head(key)
            if info is None or not is_old(info, mark) or info.read_at is None or info.read_at >= give_up:
                return False
            try:
                self.store.delete(key)
            except StoreUnreachable:
                if not tries_left:
                    raise
            else:
                return True
        return False

    def _drop_uploads(self) -> int | None:
        """Uploads in parts that somebody began and gave up; no business of a prune, so it does not fail by them."""
        try:
            before = self.store.now() - max(self.grace, _GIVEN_UP)
            return self.store.abort_uploads(layout.BLOBS_PREFIX, before)
        except UloraError:
            return None

    def _end(self, plan: PrunePlan, deleted: set[str], seen: MarksRead) -> None:
        """S6: what is garbage and still there is marked; nothing is being deleted any more."""
        doomed = {digest: when for digest, when in {**plan.ripe, **plan.waiting}.items() if digest not in deleted}
        if doomed or seen.doomed:
            self._swap(Marks.of(doomed, self.who), seen, deleted)

    def _swap(self, marks: Marks, seen: MarksRead, deleted: Collection[str] = ()) -> None:
        try:
            self.store.swap(layout.GC_KEY, marks.to_bytes(), seen.etag)
        except KeyExists as error:
            done = f"{len(deleted)} blobs were" if deleted else "nothing was"
            raise NotNow(
                f"another garbage collection was first, or took over; {done} deleted by this one", hint=_AGAIN
            ) from error

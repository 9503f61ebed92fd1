"""Prune: delete blobs that nothing refers to, in two passes at least a grace period apart, while others create versions
that may need them.

`gc.json` (`registry.store.gc_marks`) says which blobs are marked for deletion and since when (by the server's clock),
and which a sweep is deleting at this moment. It is only ever swapped under the condition that it is what was read, so
two sweeps can't interleave.

A sweep                                             A creator (`registry.store.publishing`)
  S1  reads gc.json, then the server's clock          C1  reads gc.json; waits while one of its blobs is being deleted;
  S2  reads what is referred to, lists the blobs          uploads what is missing, writes anew what is older than its
  S3  claims: swaps gc.json, naming what it deletes       mark
  S4  reads again what is referred to                 C2  reads gc.json; unless it is as before, starts again at C1
  S5  looks at each blob again, deletes it if it      C3  binds the name: from here on the blobs are referred to
      is older than its mark                          C4  reads gc.json; if it changed since C2: waits as in C1, then
  S6  swaps gc.json: the claim ends, other                uploads again what a sweep deleted
      unreferenced blobs are marked

Only blobs marked a grace period ago are deleted, so a creator whose C2 and C3 are less than that apart has seen the
mark.
* C3 before S4: the sweep sees the binding and keeps the blobs.
* S3 before C2: the creator sees the claim, or what came after it, and starts again when it has ended.
* C2, S3, S4, C3: the creator has written its marked blobs anew before the claim, S5 finds them younger than their
  mark and keeps them. So a creator that dies after C3 leaves a whole version, and one that dies before C3 none.
* A mark set between C2 and C3 (S6) has no effect before a grace period is over, and the next sweep sees the binding;
  if the grace period is shorter than that, C4 uploads again what was deleted.
* A sweep that dies keeps its claim for `LEASE`. S5 tells the time by the server's clock from each look, starts no
  deletion near the end of the lease, and sends none twice after one look. So when others take the claim as over, no
  deletion is under way, however long the sweep's machine has slept. What was not deleted stays marked.

Not covered: a machine that is put to sleep between a look and the deletion that follows at once, and wakes up when the
claim is over. So run it where machines do not sleep.

A version that a partial rollback composes has no creator with files. It needs none: its blobs are those of the live
version and of one on the stack, which are referred to before, while and after its name is bound.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from registry.errors import KeyExists, NotNow, StoreUnreachable, UloraError
from registry.formats.counts import counted
from registry.parallel import in_parallel
from registry.progress import Say, say_nothing
from registry.store import layout
from registry.store.conditional import is_of_s3
from registry.store.gc_marks import MAX_MARKED, RUN_AGAIN, Marks, MarksRead, is_older_than_mark, read_marks
from registry.store.object_info import ObjectInfo
from registry.store.objects import ObjectStore

GRACE = timedelta(hours=24)
LEASE_MARGIN = timedelta(minutes=2)
"""Before the end of its lease in which a sweep starts no deletion: longer than the server takes for one."""
_TRIES = 3
_REPORT_EVERY = 10_000
_UPLOAD_ABANDONED = timedelta(hours=24)
"""After this time an upload in parts that was not completed is taken as abandoned."""


@dataclass(frozen=True)
class Pruned:
    """What a pass of prune did, or would do. Sizes are in bytes.

    Attributes:
        deleted: blobs that were deleted; `marked` those that are marked for deletion now and still there.
        left: due, but not deleted because the lease was over first. The next pass continues.
        next_pass: from when on, by the server's clock, another pass may delete the first of those that are marked.
        uploads: uploads in parts that were abandoned long ago and are now aborted; None where the server, or our
            rights, do not allow to list or abort them.
    """

    deleted: int
    deleted_size: int
    marked: int
    marked_size: int
    left: int
    next_pass: str | None
    uploads: int | None = 0


@dataclass(frozen=True)
class PrunePlan:
    """What a pass of prune is about to do.

    Attributes:
        read: what `gc.json` said.
        due: what may be deleted now; `waiting` what is marked, or will be, with the times of the marks.
        sizes: of all these blobs.
    """

    read: MarksRead
    due: Mapping[str, datetime]
    waiting: Mapping[str, datetime]
    sizes: Mapping[str, int]

    def outcome(self, deleted: Collection[str], grace: timedelta, uploads: int | None = 0) -> Pruned:
        """The figures, when some of the blobs that are due were deleted."""
        left = self.due.keys() - set(deleted)
        marked = [*self.waiting, *left]
        oldest = min(self.waiting.values(), default=None)
        return Pruned(
            deleted=len(deleted),
            deleted_size=sum(self.sizes[digest] for digest in deleted),
            marked=len(marked),
            marked_size=sum(self.sizes[digest] for digest in marked),
            left=len(left),
            next_pass=(oldest + grace).isoformat() if oldest else None,
            uploads=uploads,
        )


@dataclass(frozen=True)
class Prune:
    """A pass over all blobs of a store.

    Attributes:
        references: gives the digests of all blobs that anything refers to. Called twice.
        say: called with what is going on.
    """

    store: ObjectStore
    references: Callable[[], frozenset[str]]
    who: str
    grace: timedelta = GRACE
    say: Say = say_nothing

    def plan(self) -> PrunePlan:
        """What to do, S1 and S2. Nothing is written.

        Raises:
            NotNow: another sweep is deleting.
            IntegrityError: something could not be read, so what it refers to is unknown.
        """
        read = read_marks(self.store)
        read.check_free()
        now = self.store.now()
        referenced = self.references()
        due: dict[str, datetime] = {}
        waiting: dict[str, datetime] = {}
        sizes: dict[str, int] = {}
        for digest, info in self._unreferenced(referenced):
            mark = read.marked.get(digest)
            marked = mark if mark and is_older_than_mark(info, mark) else now
            (due if marked == mark and now - marked >= self.grace else waiting)[digest] = marked
            sizes[digest] = info.size
        return PrunePlan(read, due, dict(islice(waiting.items(), MAX_MARKED - len(due))), sizes)

    def run(self) -> Pruned:
        """Delete what was marked a grace period ago and is still unreferenced; mark what is unreferenced now.

        Raises:
            NotNow: another sweep is deleting, or was first; it says how much this one has deleted by then.
            IntegrityError: something could not be read. Nothing was deleted.
        """
        plan = self.plan()
        deleted: set[str] = set()
        read = plan.read
        if plan.due:
            read = self._claim(plan)
            undecided: set[str] = set()
            try:
                self._sweep(plan, read, deleted, undecided)
            except BaseException:
                if not undecided:
                    with suppress(UloraError):
                        self._end(plan, deleted, read)
                raise
            if undecided:  # a deletion may still be under way: the claim stays until its lease is over
                return plan.outcome(deleted, self.grace, self._abort_uploads())
        self._end(plan, deleted, read)
        return plan.outcome(deleted, self.grace, self._abort_uploads())

    # --- steps -------------------------------------------------------------------------------------------------------

    def _unreferenced(self, referenced: frozenset[str]) -> Iterable[tuple[str, ObjectInfo]]:
        for count, info in enumerate(self.store.list(layout.BLOBS_PREFIX)):
            if count % _REPORT_EVERY == 0 and count:
                self.say(f"{counted(count, 'blob')} listed")
            digest = info.key.rpartition("/")[2]
            if digest not in referenced and info.key == layout.blob(digest):
                yield digest, info

    def _claim(self, plan: PrunePlan) -> MarksRead:
        """S3: from now on creators see what is being deleted."""
        marks = Marks.of({**plan.waiting, **plan.due}, self.who, deleting=plan.due)
        self._swap(marks, plan.read)
        claimed = read_marks(self.store)
        if claimed.deleting != frozenset(plan.due):
            raise NotNow("another garbage collection took over; nothing was deleted", hint=RUN_AGAIN)
        return claimed

    def _sweep(self, plan: PrunePlan, claim: MarksRead, deleted: set[str], undecided: set[str]) -> None:
        """S4 and S5: delete what is due unless something refers to it by now, or it was written anew.

        Args:
            deleted: gets the digests of the blobs that are gone.
            undecided: gets the keys of deletions that may be under way: the store did not say what became of a try,
                whatever it said later, or the sweep was interrupted.
        """
        referenced = self.references()
        due = [digest for digest in plan.due if digest not in referenced]
        self.say(f"deleting {counted(len(due), 'blob')}")
        assert claim.free_at is not None  # noqa: S101  `_claim` has read it
        stop_at = claim.free_at - LEASE_MARGIN

        def delete(digest: str) -> None:
            if self._delete(layout.blob(digest), plan.due[digest], stop_at, undecided):
                deleted.add(digest)

        in_parallel(delete, due)

    def _delete(self, key: str, mark: datetime, stop_at: datetime, undecided: set[str]) -> bool:
        """S5 for one blob: whether it was deleted. Before each try it is looked at, which tells the time as well."""
        is_unclear = False
        for tries_left in reversed(range(_TRIES)):
            info = self.store.head(key)
            if info is None or not is_older_than_mark(info, mark) or info.read_at is None or info.read_at >= stop_at:
                return False
            undecided.add(key)
            try:
                self.store.delete(key)
            except UloraError as error:
                is_unclear |= isinstance(error, StoreUnreachable) or not is_of_s3(error)
                if not is_unclear:
                    undecided.discard(key)
                if not tries_left or not isinstance(error, StoreUnreachable):
                    raise
            else:
                if not is_unclear:
                    undecided.discard(key)
                return True
        return False

    def _abort_uploads(self) -> int | None:
        """Abort abandoned uploads in parts. Not the purpose of a prune, so an error here does not fail it."""
        try:
            before = self.store.now() - max(self.grace, _UPLOAD_ABANDONED)
            return self.store.abort_uploads(layout.BLOBS_PREFIX, before)
        except UloraError:
            return None

    def _end(self, plan: PrunePlan, deleted: set[str], read: MarksRead) -> None:
        """S6: what is unreferenced and still there is marked; nothing is being deleted any more."""
        marked = {digest: when for digest, when in {**plan.due, **plan.waiting}.items() if digest not in deleted}
        if marked or read.marked:
            self._swap(Marks.of(marked, self.who), read, deleted)

    def _swap(self, marks: Marks, read: MarksRead, deleted: Collection[str] = ()) -> None:
        try:
            self.store.swap(layout.GC_KEY, marks.to_bytes(), read.etag)
        except KeyExists as error:
            done = counted(len(deleted), "blob") if deleted else "nothing"
            raise NotNow(
                f"another garbage collection was first, or took over; deleted by this one: {done}", hint=RUN_AGAIN
            ) from error

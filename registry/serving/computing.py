"""Compute a batch: its rows together, those of the canary in a shadow trial with them, and each alone where that fails.

In a shadow trial the canary computes the images of stable's rows too. These rows come second: they take the room that a
batch has left, when nothing else waits and no row would be late for it; else they are shed. What the canary does can
cost no row its answer: a pass that fails is done again without it, and it is not let into stable's passes any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Protocol
from weakref import WeakSet

from registry.errors import Expired
from registry.serving import rows as of_versions
from registry.serving.admitted_row import AdmittedRow, ShadowRow
from registry.serving.loaders import Loaded, PreparedRow
from registry.serving.observer import BatchObserver, RowOutcome, SettledRow

_WEIGHT = 0.2
"""Of the newest pass in the mean time that the canary's own passes take for a row."""
_MARGIN = 2.0
"""Such a pass is begun before stable's answers are given only if there is time for so many times its mean."""


class _Computable(Protocol):
    """A row of either kind."""

    outcome: RowOutcome | None

    @property
    def loaded(self) -> Loaded | None: ...
    @property
    def prepared(self) -> PreparedRow | None: ...


def room_for_shadows(rows: Sequence[AdmittedRow], waiting: int, limit: int, seconds: Callable[[int], float]) -> int:
    """How many rows of the canary may be computed with a batch.

    Args:
        waiting: images that wait behind it.
        limit: rows of a batch at most.
        seconds: says how long so many rows take.
    """
    now, most = time.monotonic(), min(limit - len(rows), sum(row.shadow is not None for row in rows))
    earliest = min((row.expires for row in rows), default=now)
    return most if most > 0 and not waiting and now + seconds(len(rows) + most) <= earliest else 0


class BatchComputer:
    """Computes batches, in the one thread that calls it."""

    def __init__(self, observer: BatchObserver) -> None:
        self._observer = observer
        self._prepared_for: WeakSet[type] = WeakSet()
        self._suspect = ""
        self._pace: tuple[str, float] = "", 0.0

    def prepare_for(self, loaded: Loaded) -> None:
        """Let the first version of a class set up this thread."""
        if of_versions.takes_batches(loaded) and type(loaded) not in self._prepared_for:
            loaded.begin_computing()
            self._prepared_for.add(type(loaded))

    def compute(self, rows: Sequence[AdmittedRow]) -> int:
        """Compute rows, with those of the canary that can go through the same passes. Returns how many that were."""
        groups: dict[Hashable, list[AdmittedRow]] = {}
        for row in rows:
            if row.prepared is not None:
                groups.setdefault(of_versions.group_of(row.loaded, row.prepared), []).append(row)
        return sum(self._compute_group(group, members) for group, members in groups.items())

    def give(self, rows: Sequence[AdmittedRow], is_idle: Callable[[], bool]) -> None:
        """Give computed rows their answers. What the canary computes apart from stable comes before that if its pace is
        known and lets no row be late; else after it, as long as `is_idle`."""
        apart = [row for row in rows if row.shadow and row.shadow.outcome is None]
        self._observer.settled([_give_one(row) for row in rows if row not in apart])
        if apart and self._is_in_time(apart):
            self._compute_apart([row.shadow for row in apart if row.shadow])
            self._observer.settled([_give_one(row) for row in apart])
        elif apart:
            # Copies, because the row's own leaves memory with its answer.
            given = [(replace(row.shadow), _give_one(row)) for row in apart if row.shadow]
            self._observer.settled([self._afterwards(shadow, told, is_idle) for shadow, told in given])

    # --- passes ------------------------------------------------------------------------------------------------------

    def _compute_group(self, group: Hashable, rows: list[AdmittedRow]) -> int:
        shadows = [row.shadow for row in rows if row.shadow and self._goes_along(row.shadow, group)]
        if shadows:
            if self._pass([*rows, *shadows]):
                return len(rows) + len(shadows)
            self._suspect = _version(shadows[0])
        if not self._pass(rows) and len(rows) > 1:
            self._compute_each(rows)
        return len(rows)

    def _compute_each(self, rows: Sequence[AdmittedRow]) -> None:
        """Each row alone, so that an image that breaks its batch costs no other its answer."""
        for row in rows:
            if row.expires <= time.monotonic():
                row.outcome = RowOutcome(error=expired())
            else:
                self._pass([row])

    def _pass(self, rows: Sequence[_Computable]) -> bool:
        """Compute rows together; whether that worked. Then each has its outcome, as a single one has in any case."""
        began, loaded = time.monotonic(), rows[0].loaded
        try:
            if loaded is None:
                raise RuntimeError("the version of a row has left memory")
            self.prepare_for(loaded)
            answers = of_versions.answers(loaded, [row.prepared for row in rows])
        except BaseException as error:  # of any kind: this thread has to answer
            if len(rows) == 1:
                rows[0].outcome = RowOutcome(error=error, compute_seconds=time.monotonic() - began)
            return False
        seconds = time.monotonic() - began
        self._observer.batch_computed(seconds)
        for row, answer in zip(rows, answers, strict=True):
            row.outcome = RowOutcome(answer, compute_seconds=seconds / len(rows))
        return True

    # --- the canary of a shadow trial --------------------------------------------------------------------------------

    def _goes_along(self, shadow: ShadowRow, group: Hashable) -> bool:
        """Whether a row of the canary goes through the pass of a group."""
        if shadow.loaded is None or shadow.prepared is None or shadow.outcome or _version(shadow) == self._suspect:
            return False
        return of_versions.group_of(shadow.loaded, shadow.prepared) == group

    def _is_in_time(self, rows: Sequence[AdmittedRow]) -> bool:
        """Whether the canary can compute rows apart from stable, before any of their answers is late."""
        version, seconds = self._pace
        if not rows[0].shadow or version != _version(rows[0].shadow) or version == self._suspect:
            return False
        return time.monotonic() + _MARGIN * seconds * len(rows) <= min(row.expires for row in rows)

    def _compute_apart(self, shadows: list[ShadowRow]) -> None:
        """Rows of the canary in passes of its own, e.g. because it has another backbone."""
        version, groups = _version(shadows[0]), dict[Hashable, list[ShadowRow]]()
        for shadow in shadows:
            if shadow.loaded is not None and shadow.prepared is not None:
                groups.setdefault(of_versions.group_of(shadow.loaded, shadow.prepared), []).append(shadow)
        began = time.monotonic()
        if not all([self._pass(group) for group in groups.values()]):
            self._suspect = version
        self._note_pace(version, (time.monotonic() - began) / len(shadows))

    def _afterwards(self, shadow: ShadowRow, told: SettledRow, is_idle: Callable[[], bool]) -> SettledRow:
        """What is told of a row that got its answer before the canary has computed it."""
        if not is_idle():
            return replace(told, was_shed=True)
        began, version = time.monotonic(), _version(shadow)
        if self._pass([shadow]):
            self._note_pace(version, time.monotonic() - began)
        return replace(told, shadow=shadow.outcome)

    def _note_pace(self, version: str, seconds: float) -> None:
        known, mean = self._pace
        self._pace = version, mean + _WEIGHT * (seconds - mean) if known == version else seconds


def _give_one(row: AdmittedRow) -> SettledRow:
    outcome = row.outcome or RowOutcome(error=RuntimeError("an image was not computed"))
    told = row.settled(outcome, time.monotonic())
    row.give(outcome)
    return told


def expired() -> Expired:
    """What a row gets that is too late."""
    return Expired("the image could not be computed by its deadline", hint="give it a later deadline, or send less")


def _version(shadow: ShadowRow) -> str:
    return shadow.loaded.version if shadow.loaded else ""

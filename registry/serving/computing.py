"""Compute a batch: its rows together, those of the canary in a shadow trial with them, and each alone where that fails.

In a shadow trial the canary computes the images of stable's rows too. These rows come second: they take the room that a
batch has left, when nothing else waits, no row would be late for it, and none waits for it for long; else they are
shed. What the canary does can cost no row its answer: a pass that fails is done again without it, and it is let into no
pass of stable any more; if one took too long, for a time.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
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
_WEIGHT_OF_BATCH, _FEW = 0.02, 2
"""Of the newest batch in the mean number of its rows; so many are never more than usual."""
_MARGIN = 2.0
"""Such a pass is begun before stable's answers are given only if there is time for so many times its mean."""
SHADOW_SECONDS = 0.1
"""That rows of stable may wait for passes of the canary's own, by its pace: 5% of the deadline by default. Where stable
takes longer for an image, as long as that. A canary that takes longer is shed."""
AGAIN_SECONDS = 600.0
"""After which a canary that was too slow is tried once more: a single slow pass says little."""

HOPELESS_SECONDS = 1.0
"""For an image when it was loaded, half of the deadline by default: such a canary is not tried at all before that. The
first images of a version take longer than others, so less says little."""
_SLOW = 3.0
"""Times what so many rows take, after which a pass that the canary was in took too long."""

_log = logging.getLogger(__name__)


class _Computable(Protocol):
    """A row of either kind."""

    outcome: RowOutcome | None

    @property
    def loaded(self) -> Loaded | None: ...
    @property
    def prepared(self) -> PreparedRow | None: ...


class ShadowRoom:
    """Says how many rows of the canary may be computed with a batch.

    With a batch of more rows than usual none may: stable's queue grows, and a pass that is twice as long would let it
    grow on. So a trial makes the passes that are short already longer, and the longest ones, which the slowest answers
    wait for, hardly.
    """

    def __init__(self) -> None:
        self._usual = float(_FEW)

    def beside(self, rows: Sequence[AdmittedRow], waiting: int, limit: int, seconds: Callable[[int], float]) -> int:
        """How many.

        Args:
            waiting: images that wait behind the batch.
            limit: rows of a batch at most.
            seconds: says how long so many rows take.
        """
        now, most = time.monotonic(), min(limit - len(rows), sum(row.shadow is not None for row in rows))
        is_usual = len(rows) <= max(_FEW, self._usual)
        self._usual += _WEIGHT_OF_BATCH * (len(rows) - self._usual)
        earliest = min((row.expires for row in rows), default=now)
        has_room = most > 0 and not waiting and is_usual and now + seconds(len(rows) + most) <= earliest
        return most if has_room else 0


class _CanaryPace:
    """How long a canary takes for an image in passes of its own, its reading included.

    Attributes:
        limit: seconds that stable's rows may wait for it.
    """

    def __init__(self) -> None:
        self.limit = SHADOW_SECONDS
        self._version, self._mean, self._noted, self._warned = "", 0.0, 0.0, ""

    def note(self, version: str, seconds: float) -> None:
        """It took so many seconds for an image."""
        if version != self._version or self._mean > self.limit:  # the first, or another try
            self._mean = seconds
        else:
            self._mean += _WEIGHT * (seconds - self._mean)
        self._version, self._noted = version, time.monotonic()
        if self._mean > self.limit and self._warned != version:
            self._warned = version
            _log.warning(
                "the canary %s takes %.2f s for an image, but stable's requests may wait for %.2f s: its images are "
                "shed, and it is tried again every %g s", version, self._mean, self.limit, AGAIN_SECONDS,
            )  # fmt: skip

    def is_in_time(self, version: str, images: int, expires: float) -> bool:
        """Whether it can compute so many images before the answers of stable are given."""
        seconds = self._mean * images
        if version != self._version or seconds > self.limit:
            return False
        return time.monotonic() + _MARGIN * seconds <= expires

    def is_too_slow(self, version: str) -> bool:
        """Whether not even one image is to be computed now."""
        slow = version == self._version and self._mean > self.limit
        return slow and time.monotonic() < self._noted + AGAIN_SECONDS


class BatchComputer:
    """Computes batches, in the one thread that calls it.

    Attributes:
        expected: canaries that come, and the seconds that each took for an image when it was loaded. Any thread adds.
    """

    def __init__(self, observer: BatchObserver) -> None:
        self._observer = observer
        self._prepared_for: WeakSet[type] = WeakSet()
        self._suspect, self._suspect_until = "", math.inf
        self._pace = _CanaryPace()
        self.expected: deque[tuple[str, float]] = deque(maxlen=8)

    def prepare_for(self, loaded: Loaded) -> None:
        """Let the first version of a class set up this thread."""
        if of_versions.takes_batches(loaded) and type(loaded) not in self._prepared_for:
            loaded.begin_computing()
            self._prepared_for.add(type(loaded))

    def compute(self, rows: Sequence[AdmittedRow], seconds: Callable[[int], float]) -> int:
        """Compute rows, with those of the canary that can go through the same passes. Returns how many that were.

        Args:
            seconds: says how long so many rows take.
        """
        self._pace.limit = max(SHADOW_SECONDS, seconds(1))
        while self.expected:
            self._note_load(*self.expected.popleft())
        groups: dict[Hashable, list[AdmittedRow]] = {}
        for row in rows:
            if row.prepared is not None:
                groups.setdefault(of_versions.group_of(row.loaded, row.prepared), []).append(row)
        return sum(self._compute_group(group, members, seconds) for group, members in groups.items())

    def give(self, rows: Sequence[AdmittedRow], is_idle: Callable[[], bool]) -> None:
        """Give computed rows their answers. What the canary computes apart from stable comes before that if its pace is
        known and lets no row be late; else after it, as long as `is_idle`."""
        apart = [row for row in rows if row.shadow and row.shadow.outcome is None]
        self._observer.settled([_give_one(row) for row in rows if row not in apart])
        if apart and self._is_in_time(apart):
            self._compute_apart([row.shadow for row in apart if row.shadow])
            self._observer.settled([_give_one(row) for row in apart])
        elif apart:
            given = [(row.take_shadow(), _give_one(row)) for row in apart]
            self._observer.settled([self._afterwards(shadow, told, is_idle) for shadow, told in given])

    # --- passes ------------------------------------------------------------------------------------------------------

    def _compute_group(self, group: Hashable, rows: list[AdmittedRow], seconds: Callable[[int], float]) -> int:
        shadows = [row.shadow for row in rows if row.shadow and self._goes_along(row.shadow, group)]
        if shadows:
            began, count = time.monotonic(), len(rows) + len(shadows)
            usual = seconds(count)
            if self._pass([*rows, *shadows]):
                if time.monotonic() - began > SHADOW_SECONDS + _SLOW * usual:
                    self._suspect, self._suspect_until = _version(shadows[0]), time.monotonic() + AGAIN_SECONDS
                return count
            self._suspect, self._suspect_until = _version(shadows[0]), math.inf
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

    def _note_load(self, version: str, image_seconds: float) -> None:
        """Keep a canary out that was far too slow when it was loaded: its first pass here would hold up all."""
        if image_seconds > max(HOPELESS_SECONDS, _SLOW * self._pace.limit):
            self._pace.note(version, image_seconds)
            self._suspect, self._suspect_until = version, time.monotonic() + AGAIN_SECONDS

    def _goes_along(self, shadow: ShadowRow, group: Hashable) -> bool:
        """Whether a row of the canary goes through the pass of a group."""
        if shadow.loaded is None or shadow.prepared is None or shadow.outcome or self._is_suspect(_version(shadow)):
            return False
        return of_versions.group_of(shadow.loaded, shadow.prepared) == group

    def _is_suspect(self, version: str) -> bool:
        return version == self._suspect and time.monotonic() < self._suspect_until

    def _is_in_time(self, rows: Sequence[AdmittedRow]) -> bool:
        """Whether the canary can compute rows apart from stable, before any of their answers is late."""
        version, expires = _version(rows[0].shadow), min(row.expires for row in rows)
        return not self._is_suspect(version) and self._pace.is_in_time(version, len(rows), expires)

    def _compute_apart(self, shadows: list[ShadowRow]) -> None:
        """Rows of the canary in passes of its own, e.g. because it has another backbone."""
        began, version, groups = time.monotonic(), _version(shadows[0]), dict[Hashable, list[ShadowRow]]()
        for shadow in shadows:
            shadow.read()
            if shadow.loaded is not None and shadow.prepared is not None and shadow.outcome is None:
                groups.setdefault(of_versions.group_of(shadow.loaded, shadow.prepared), []).append(shadow)
        if not all([self._pass(group) for group in groups.values()]):
            self._suspect, self._suspect_until = version, math.inf
        self._pace.note(version, (time.monotonic() - began) / len(shadows))

    def _afterwards(self, shadow: ShadowRow | None, told: SettledRow, is_idle: Callable[[], bool]) -> SettledRow:
        """What is told of a row that got its answer before the canary has computed it."""
        version = _version(shadow)
        if shadow is None or not is_idle() or self._pace.is_too_slow(version):
            outcome = None
        else:
            began = time.monotonic()
            shadow.read()
            if shadow.outcome is None:
                self._pass([shadow])
            self._pace.note(version, time.monotonic() - began)
            outcome = shadow.outcome
        if shadow is not None:
            shadow.release()
        return replace(told, shadow=outcome, was_shed=outcome is None)


def _give_one(row: AdmittedRow) -> SettledRow:
    outcome = row.outcome or RowOutcome(error=RuntimeError("an image was not computed"))
    told = row.settled(outcome, time.monotonic())
    row.give(outcome)
    return told


def expired() -> Expired:
    """What a row gets that is too late."""
    return Expired("the image could not be computed by its deadline", hint="give it a later deadline, or send less")


def _version(shadow: ShadowRow | None) -> str:
    return shadow.loaded.version if shadow and shadow.loaded else ""

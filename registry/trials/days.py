"""What each version answered on each day, for people: the share that was flagged as OOD, and the mix of labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

from registry.trials.observations import MAX_DAY_LABELS, MAX_DAYS, DayCounts, Observations

LABEL_CHARACTERS = 40
OTHER = "other"
"""The name of all labels for which there is no room."""

_DAY_SECONDS = 86_400
_EPOCH = date(1970, 1, 1)


class DayTallies:
    """The counts of one replica, of its newest days. The recorder calls it under its lock."""

    def __init__(self) -> None:
        self._days: dict[tuple[int, str], _Tally] = {}
        """By the days since 1970, and the version."""

    def add(self, version: str, label: str | None, now: float, *, is_flagged: bool) -> None:
        """Count an answer of a version; `now` is the replica's clock."""
        place = (int(now // _DAY_SECONDS), version)
        if place not in self._days:
            self._days[place] = _Tally()
            while len(self._days) > MAX_DAYS:
                del self._days[min(self._days)]
        if place in self._days:  # not so where a clock went back behind the oldest day
            self._days[place].add(label, is_flagged=is_flagged)

    def copy(self) -> list[DayCounts]:
        """The document's parts, the newest last."""
        return [one.counts(_EPOCH + timedelta(days=day), version) for (day, version), one in sorted(self._days.items())]


class _Tally:
    def __init__(self) -> None:
        self.answers, self.flagged = 0, 0
        self.labels: Counter[str] = Counter()

    def add(self, label: str | None, *, is_flagged: bool) -> None:
        self.answers += 1
        self.flagged += is_flagged
        if label is not None:
            name = label[:LABEL_CHARACTERS] if label.isprintable() else OTHER
            has_room = name in self.labels or len(self.labels) < MAX_DAY_LABELS - 1
            self.labels[name if has_room else OTHER] += 1

    def counts(self, day: date, version: str) -> DayCounts:
        return DayCounts(
            day=day.isoformat(), version=version, answers=self.answers, flagged=self.flagged, labels=dict(self.labels)
        )


@dataclass(frozen=True)
class AnswersOfDay:
    """What a version answered on a day, at all replicas together; the fields are those of `DayCounts`."""

    day: date
    version: str
    answers: int
    flagged: int
    labels: dict[str, int]


def answers_of_days(observations: Iterable[Observations]) -> list[AnswersOfDay]:
    """All replicas together, by day and version. Of several documents of a replica, the one that counted more."""
    told: dict[tuple[str, str], dict[str, DayCounts]] = defaultdict(dict)
    for each in observations:
        for one in each.days:
            known = told[one.day, one.version].get(each.replica)
            if known is None or one.answers > known.answers:
                told[one.day, one.version][each.replica] = one
    return [_together(told[place].values()) for place in sorted(told)]


def _together(ones: Iterable[DayCounts]) -> AnswersOfDay:
    every, labels = list(ones), Counter[str]()
    for one in every:
        labels.update(one.labels)
    return AnswersOfDay(
        date.fromisoformat(every[0].day), every[0].version, sum(one.answers for one in every),
        sum(one.flagged for one in every), dict(labels),
    )  # fmt: skip

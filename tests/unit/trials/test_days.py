"""What each version answered on each day."""

from datetime import date

import pytest

from registry.errors import BadManifest
from registry.formats import canonical
from registry.trials.days import OTHER, AnswersOfDay, DayTallies, answers_of_days
from registry.trials.observations import MAX_DAY_LABELS, MAX_DAYS, Observations, TrialStage
from registry.trials.recorder import Counted, Recorder

TUESDAY = 1_796_083_200.0
"""2026-12-01 00:00 UTC."""
DAY = 86_400
STABLE = TrialStage(1, "v1.0.0")
SHADOW = TrialStage(2, "v1.0.0", "v2.0.0", "a" * 32, "shadow", 100.0)


class Clock:
    now = TUESDAY

    def __call__(self) -> float:
        return self.now


def read(recorder: Recorder) -> Observations:
    """The document as others read it."""
    return Observations.parse(recorder.document().to_bytes(), "observations")


def test_answers_count_on_the_day_of_their_request() -> None:
    clock = Clock()
    recorder = Recorder("host-1", "host", clock)
    clock.now = TUESDAY - 1
    recorder.record(STABLE, "stable", 1, Counted("answer", label="blight"))
    clock.now = TUESDAY
    recorder.record(STABLE, "stable", 1, Counted("review", flagged=True))
    recorder.record_pair(SHADOW, 2, Counted("answer", label="rust"), Counted("answer", label="blight"))
    for failed in (Counted("500", error=True), Counted("not_finite", error=True), Counted("429")):
        recorder.record(STABLE, "stable", 3, failed)
    assert answers_of_days([read(recorder)]) == [
        AnswersOfDay(date(2026, 11, 30), "v1.0.0", 1, 0, {"blight": 1}),
        AnswersOfDay(date(2026, 12, 1), "v1.0.0", 2, 1, {"rust": 1}),
        AnswersOfDay(date(2026, 12, 1), "v2.0.0", 1, 0, {"blight": 1}),
    ]


def test_replicas_are_added_and_an_older_document_adds_nothing() -> None:
    documents = []
    for name in ("a", "b"):
        recorder = Recorder(name, "host", Clock())
        for unit in range(3):
            recorder.record(STABLE, "stable", unit, Counted("answer", label="rust"))
            documents.append(read(recorder))
    expected = [AnswersOfDay(date(2026, 12, 1), "v1.0.0", 6, 0, {"rust": 6})]
    assert answers_of_days(documents) == expected
    assert answers_of_days(documents[::-1]) == expected


def test_the_newest_days_and_so_many_labels_are_kept() -> None:
    tallies = DayTallies()
    for day in range(MAX_DAYS + 3):
        for number in range(MAX_DAY_LABELS + 5):
            tallies.add("v1.0.0", f"label {number} " + 100 * "é", TUESDAY + day * DAY, is_flagged=False)
    tallies.add("v1.0.0", "two\nlines", TUESDAY + (MAX_DAYS + 2) * DAY, is_flagged=False)
    tallies.add("v1.0.0", "rust", TUESDAY - DAY, is_flagged=False)
    days = tallies.copy()
    assert [one.day for one in days] == [f"2026-12-{day:02}" for day in range(4, 4 + MAX_DAYS)]
    assert all(len(one.labels) == MAX_DAY_LABELS for one in days)
    assert [one.labels[OTHER] for one in days] == [6] * (MAX_DAYS - 1) + [7]
    assert all(len(label) <= 40 for one in days for label in one.labels)


@pytest.mark.parametrize(
    "day",
    [
        {"day": "2026-02-30", "version": "v", "answers": 1},
        {"day": "today", "version": "v", "answers": 1},
        {"day": "2026-12-01", "version": "v" * 121, "answers": 1},
        {"day": "2026-12-01", "version": "v", "answers": -1},
        {"day": "2026-12-01", "version": "v", "answers": 1, "labels": {"l" * 41: 1}},
        {"day": "2026-12-01", "version": "v", "answers": 1, "labels": {str(number): 1 for number in range(21)}},
    ],
)
def test_damaged_days_are_refused(day: dict[str, object]) -> None:
    document = canonical.decode(Recorder("a", "host").document().to_bytes(), "observations") | {"days": [day]}
    with pytest.raises(BadManifest, match="follow"):
        Observations.parse(canonical.encode(document), "observations")

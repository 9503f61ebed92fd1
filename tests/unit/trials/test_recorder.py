"""What a replica counts, and that its document is never larger than it may be."""

import random
import threading

import pytest

from registry.errors import BadManifest
from registry.formats import canonical
from registry.trials.observations import BASES, EVENTS, FIRST, MAX_DAY_LABELS, MAX_DAYS, Observations, TrialStage
from registry.trials.receipts import OOD_LABEL, ArmAnswer, Receipt
from registry.trials.recorder import Counted, Recorder

TRIAL = "0123456789abcdef" * 2
SPLIT = TrialStage(2, "v1.0.0", "v2.0.0", TRIAL, "split", 10.0)
SHADOW = TrialStage(2, "v1.0.0", "v2.0.0", TRIAL, "shadow", 100.0)
FINE, FAILED = Counted("answer", label="a"), Counted("500", error=True)


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorder(clock: Clock) -> Recorder:
    return Recorder("host-1-abcd", "host", clock)


def read(recorder: Recorder) -> Observations:
    """The document as others read it."""
    return Observations.parse(recorder.document().to_bytes(), "observations")


def test_units_are_counted_once_by_event(recorder: Recorder) -> None:
    for unit, counted in ((1, FINE), (1, FAILED), (1, FAILED), (2, FAILED), (3, Counted("review", flagged=True))):
        recorder.record(SPLIT, "canary", unit, counted)
    recorder.record(SPLIT, "stable", 4, FINE)
    (stage,) = read(recorder).stages
    assert stage.stage == SPLIT
    canary = {event: set(units) for event, units in stage.arms["canary"].units.items()}
    assert canary == {"asked": {1, 2, 3}, "error": {1, 2}, "first_error": {2}, "flagged": {3}, "first_flagged": {3}}
    assert stage.arms["canary"].counters == {"answer": 1, "500": 3, "review": 1}
    assert set(stage.arms["stable"].units) == {"asked"}


def test_a_stage_is_told_before_anything_happens(recorder: Recorder) -> None:
    recorder.begin(SPLIT)
    assert [one.stage for one in read(recorder).stages] == [SPLIT]
    assert recorder.stage_of(2) == SPLIT
    assert recorder.stage_of(3) is None


def test_without_a_trial_only_stable_is_counted(recorder: Recorder) -> None:
    stage = TrialStage(7, "v1.0.0")
    recorder.record(stage, "stable", 1, FINE)
    (counts,) = read(recorder).stages
    assert list(counts.arms) == ["stable"]
    assert stage.salt == "generation-7"


def test_pairs_of_a_shadow_trial_count_for_both_arms(recorder: Recorder) -> None:
    recorder.record_pair(SHADOW, 1, FINE, Counted("answer", label="b"))
    recorder.record_pair(SHADOW, 2, FINE, FAILED)
    (stage,) = read(recorder).stages
    assert stage.pairs == {"a -> b": 1, "a -> -": 1}
    assert set(stage.arms["canary"].units["error"]) == {2}
    assert "error" not in stage.arms["stable"].units


def test_failures_memory_and_counters_are_kept(recorder: Recorder) -> None:
    recorder.failed(SPLIT, "canary", "load_failed")
    recorder.memory(SPLIT, "canary", 27.5)
    recorder.memory(SPLIT, "canary", float("nan"))
    recorder.count(SPLIT, "canary", "shed")
    recorder.count(SPLIT, "canary", "Not A Name")
    canary = read(recorder).stages[0].arms["canary"]
    assert (canary.failures, canary.memory_mb, canary.counters) == ({"load_failed": 1}, 27.5, {"shed": 1, "other": 1})


def test_windows_are_written_when_they_are_over(recorder: Recorder, clock: Clock) -> None:
    for number in range(1, 20):
        seconds = number / 1000
        recorder.record(SPLIT, "stable", number % 5, Counted("answer", compute_seconds=seconds, request_seconds=1.0))
    recorder.record(SPLIT, "stable", 30, Counted("500", error=True, compute_seconds=float("nan")))
    recorder.record(SPLIT, "stable", 1, FAILED)
    assert read(recorder).stages[0].arms["stable"].windows == ()
    clock.now += 10
    (window,) = read(recorder).stages[0].arms["stable"].windows
    assert (window.at, window.n, window.asked, window.errors) == (180_000_000, 21, 6, 1)
    assert (window.compute_p50, window.compute_p95, window.request_p95) == (
        3.0,
        5.0,
        1000.0,
    )  # of the first request of each unit
    stored = canonical.decode(recorder.document().to_bytes(), "observations")["stages"][0]["arms"]["stable"]
    assert stored["windows"] == [list(window)]


def test_windows_of_the_last_hour_are_kept(recorder: Recorder, clock: Clock) -> None:
    for _ in range(500):
        recorder.record(SPLIT, "stable", 1, FINE)
        clock.now += 10
    windows = read(recorder).stages[0].arms["stable"].windows
    assert [window.at for window in windows][-1] == int(clock.now // 10) - 1
    assert 358 <= len(windows) <= 360
    clock.now += 3600
    assert read(recorder).stages[0].arms["stable"].windows == ()


def receipt(label: str, *, flagged: bool = False, unit: int = 1, shadow: ArmAnswer | None = None) -> Receipt:
    return Receipt(
        2, "canary" if shadow is None else "stable", unit, ArmAnswer(label, flagged), 1_800_000_000, None, shadow
    )


def test_labels_count_by_what_was_answered(recorder: Recorder) -> None:
    recorder.label(SPLIT, receipt("a", unit=1), "a")
    recorder.label(SPLIT, receipt("a", unit=2), "b")
    recorder.label(SPLIT, receipt("a", unit=3, flagged=True), "a")
    recorder.label(SPLIT, receipt("a", unit=4), OOD_LABEL)
    recorder.label(SPLIT, receipt("a", unit=5, flagged=True), OOD_LABEL)
    recorder.label(SPLIT, receipt("a", unit=1), "b")
    units = {event: set(found) for event, found in read(recorder).stages[0].arms["canary"].units.items()}
    assert units == {
        "labelled": {1, 2, 3}, "wrong": {1, 2}, "first_wrong": {2}, "alarmed": {3}, "first_alarmed": {3},
        "ood": {4, 5}, "missed": {4}, "first_missed": {4},
    }  # fmt: skip


def test_labels_of_a_shadow_trial_count_for_both(recorder: Recorder) -> None:
    recorder.label(SHADOW, receipt("a", shadow=ArmAnswer("b")), "a")
    arms = read(recorder).stages[0].arms
    assert set(arms["canary"].units["wrong"]) == {1}
    assert set(arms["stable"].units) == {"labelled"}


def test_the_first_label_of_a_receipt_counts(recorder: Recorder, clock: Clock) -> None:
    one = receipt("a")
    assert [recorder.label(SPLIT, one, label) for label in "aab"] == ["taken", "repeated", "contradictory"]
    assert "wrong" not in read(recorder).stages[0].arms["canary"].units
    clock.now += 40 * 86_400
    assert recorder.label(SPLIT, receipt("a"), "a") == "late"
    assert recorder.label(SPLIT, Receipt(2, "named", 1, ArmAnswer("a"), int(clock.now)), "a") == "left_out"


def fill(recorder: Recorder, stage: TrialStage, clock: Clock, bits: random.Random) -> None:
    """A stage that takes as much room as one can."""
    tally = recorder._tally(stage)
    for arm in ("stable", "canary"):
        counts = tally.arms[arm]
        for event in (*EVENTS, *(FIRST + event for event in BASES)):
            counts.units[event]._bitmap[:] = bits.randbytes(8192)
        for number in range(200):
            recorder.count(stage, arm, f"{number:040d}")
        for number in range(400):
            clock.now += 10
            seconds = 90_000 + bits.random()
            recorder.record(stage, arm, number, Counted("x", compute_seconds=seconds, request_seconds=seconds))
    for number in range(200):
        label = f"{number:03d}" + "\U0001f331" * 60
        tally.pairs.clear() if number == 0 else None
        recorder.record_pair(stage, 1, Counted("x", label=label), Counted("x", label=label))


def test_a_label_of_a_stage_that_is_left_is_late(recorder: Recorder, clock: Clock) -> None:
    stages = [TrialStage(generation, "v1.0.0", "v2.0.0", TRIAL, "split", 10.0) for generation in range(1, 20)]
    for stage in stages[2:]:
        recorder.begin(stage)
    labels = [Receipt(number, "canary", 1, ArmAnswer("a"), int(clock.now)) for number in (1, 4)]
    found = [recorder.label(stage, one, "b") for stage, one in zip((stages[0], stages[3]), labels, strict=True)]
    assert found == ["late", "taken"]
    assert [set(stage.arms["canary"].units["wrong"]) for stage in read(recorder).stages if stage.generation == 4] == [
        {1}
    ]


def test_no_counts_make_a_document_too_large(recorder: Recorder, clock: Clock) -> None:
    bits = random.Random(1)
    stages = [TrialStage(number, "v" * 120, "w" * 120, TRIAL, "split", 0.1 + number) for number in range(1, 21)]
    for stage in stages:
        fill(recorder, stage, clock, bits)
    for number in range(MAX_DAYS * (MAX_DAY_LABELS + 1)):
        counted = Counted("answer", label=f"{number:05}" + 40 * "\N{CJK UNIFIED IDEOGRAPH-4E00}")
        clock.now += 86_400 / MAX_DAY_LABELS
        recorder.record(stages[-1], "stable", number, counted)
    data = recorder.document().to_bytes()
    assert 256 * 1024 < len(data) <= 512 * 1024
    assert [one.stage for one in Observations.parse(data, "observations").stages] == stages[-1:]


def test_the_oldest_stages_are_left_out_first(recorder: Recorder, clock: Clock) -> None:
    small = [TrialStage(number, "v1.0.0") for number in range(1, 40)]
    for stage in small:
        recorder.begin(stage)
    assert [one.generation for one in read(recorder).stages] == list(range(24, 40))
    fill(recorder, TrialStage(30, "v1.0.0", "v2.0.0", TRIAL, "split", 1.0), clock, random.Random(2))
    fill(recorder, TrialStage(31, "v1.0.0", "v2.0.0", TRIAL, "split", 1.0), clock, random.Random(2))
    kept = [one.generation for one in read(recorder).stages]
    assert kept == sorted(kept)
    assert 39 in kept
    assert 30 not in kept


def test_threads_lose_no_count(recorder: Recorder) -> None:
    def count(first: int) -> None:
        for unit in range(first, first + 500):
            recorder.record(SPLIT, "stable", unit, FINE)

    threads = [threading.Thread(target=count, args=(500 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        recorder.document()
    for thread in threads:
        thread.join()
    stable = read(recorder).stages[0].arms["stable"]
    assert (len(stable.units["asked"]), stable.counters) == (4000, {"answer": 4000})


@pytest.mark.parametrize(
    "change",
    [
        {"replica": "No Name"},
        {"stages": [{}] * 17},
        {"stages": [{"generation": 1, "arms": {}}]},
        {"stages": [{"generation": 1, "arms": {"stable": {"version": "v" * 200}}}]},
        {"stages": [{"generation": 1, "arms": {"stable": {"version": "v", "units": {"asked": "AAAA"}}}}]},
        {"stages": [{"generation": 1, "arms": {"stable": {"version": "v", "units": {"asked": 3}}}}]},
        {"stages": [{"generation": 1, "arms": {"stable": {"version": "v", "counters": {"a": -1}}}}]},
        {"stages": [{"generation": 1, "arms": {"stable": {"version": "v", "memory_mb": 1e300}}}]},
        {"stages": [{"generation": 1, "arms": {"stable": {"version": "v", "windows": [[1, 1]] * 361}}}]},
        {"stages": [{"generation": 1, "arms": {"stable": {"version": "v", "windows": [[1]]}}}]},
        {"stages": [{"generation": 1, "arms": {"stable": {"version": "v", "windows": [[-1, 1]]}}}]},
        {"stages": [{"generation": 1, "arms": {"stable": {"version": "v", "windows": [[1, 1, *[None] * 7]]}}}]},
        {"stages": [{"generation": 1, "weight": 101.0, "arms": {"stable": {"version": "v"}}}]},
        {"stages": [{"generation": 1, "arms": {"stable": {"version": "v"}}, "pairs": {"p" * 101: 1}}]},
    ],
)
def test_damaged_observations_are_refused(recorder: Recorder, change: dict[str, object]) -> None:
    document = canonical.decode(recorder.document().to_bytes(), "observations") | change
    with pytest.raises(BadManifest, match="follow"):
        Observations.parse(canonical.encode(document), "observations")

"""The observations of all replicas together: any order, twice, with restarts and with older objects beside newer."""

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from registry.trials.merge import MergedStage, counted_in, merged
from registry.trials.observations import Observations, TrialStage
from registry.trials.receipts import ArmAnswer, Receipt
from registry.trials.recorder import Counted, Recorder

TRIAL = "0123456789abcdef" * 2
STAGES = [
    TrialStage(1, "v1.0.0"),
    TrialStage(2, "v1.0.0", "v2.0.0", TRIAL, "split", 10.0),
    TrialStage(3, "v1.0.0", "v2.0.0", TRIAL, "split", 50.0),
]
ARMS = ("stable", "canary")
EVENTS = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(STAGES),
    st.sampled_from(ARMS),
    st.integers(0, 12),
    st.sampled_from(["fine", "failed", "flagged", "labelled", "wrong", "crash", "restart", "write", "time"]),
)


class Fleet:
    """Replicas that count for real, and every object that any of them has ever written."""

    def __init__(self) -> None:
        self.written: list[Observations] = []
        self.last: dict[str, Observations] = {}
        self.now = 1_800_000_000.0
        self._recorders: dict[str, Recorder] = {}
        self._starts = 0

    def play(self, events: Sequence[tuple[str, TrialStage, str, int, str]]) -> None:
        for number, (replica, stage, arm, unit, what) in enumerate(events):
            if what == "restart":
                self.write(replica)
                self._recorders.pop(replica, None)
            elif what == "write":
                self.write(replica)
            elif what == "time":
                self.now += 10
            else:
                self._count(self._recorder(replica), stage, arm if stage.canary else "stable", unit, what, number)
        for replica in list(self._recorders):
            self.write(replica)

    def write(self, replica: str) -> None:
        if replica in self._recorders:
            document = self._recorders[replica].document()
            found = Observations.parse(document.to_bytes(), "observations")
            self.written.append(found)
            self.last[found.replica] = found

    def _recorder(self, replica: str) -> Recorder:
        if replica not in self._recorders:
            self._starts += 1
            self._recorders[replica] = Recorder(f"{replica}-{self._starts}", "host", lambda: self.now)
        return self._recorders[replica]

    @staticmethod
    def _count(recorder: Recorder, stage: TrialStage, arm: str, unit: int, what: str, number: int) -> None:
        if what == "crash":
            recorder.failed(stage, arm, "crash")
        elif what in ("labelled", "wrong"):
            one = Receipt(stage.generation, arm, unit, ArmAnswer("a"), 1_800_000_000, nonce=number.to_bytes(8, "big"))
            recorder.label(stage, one, "a" if what == "labelled" else "b")
        else:
            recorder.record(
                stage, arm, unit, Counted(what, error=what == "failed", flagged=what == "flagged", compute_seconds=0.01)
            )


@settings(max_examples=40, deadline=None)
@given(st.lists(EVENTS, max_size=60), st.randoms(use_true_random=False))
def test_any_order_twice_with_restarts_is_the_same(
    events: list[tuple[str, TrialStage, str, int, str]], order: random.Random
) -> None:
    fleet = Fleet()
    fleet.play(events)
    newest = merged(fleet.last.values())
    everything = [*fleet.written, *fleet.written]  # the older ones of each replica too, and all of them twice
    order.shuffle(everything)
    assert merged(everything) == newest
    assert list(merged(everything)) == list(newest)


@settings(max_examples=40, deadline=None)
@given(st.lists(EVENTS, max_size=60))
def test_units_are_those_that_anybody_saw(events: list[tuple[str, TrialStage, str, int, str]]) -> None:
    fleet = Fleet()
    fleet.play(events)
    found = merged(fleet.last.values())
    for stage in STAGES:
        any_arm = () if stage.canary else ARMS
        for arm in ARMS if stage.canary else ("stable",):
            seen = [(unit, what) for _, where, to, unit, what in events if where == stage and to in (arm, *any_arm)]
            asked = {unit for unit, what in seen if what in ("fine", "failed", "flagged")}
            failed = {unit for unit, what in seen if what == "failed"}
            merged_stage = found.get(stage)
            if asked:
                assert merged_stage is not None
                assert set(merged_stage.arms[arm].of("asked")) == asked
                assert set(merged_stage.arms[arm].of("error")) == failed
                assert set(merged_stage.arms[arm].of("first_error")) <= failed


def one(replica: str, stage: TrialStage, *requests: tuple[int, bool]) -> Observations:
    recorder = Recorder(replica, "host")
    recorder.begin(stage)
    for unit, error in requests:
        recorder.record(stage, "stable", unit, Counted("500" if error else "answer", error=error))
    return recorder.document()


def only(found: dict[TrialStage, MergedStage]) -> MergedStage:
    (stage,) = found.values()
    return stage


def test_the_replica_with_the_least_id_tells_of_a_unit() -> None:
    """So a unit that many replicas see is one request, not as many chances of an error."""
    stage = only(merged([one("b", STAGES[1], (1, True), (2, True)), one("a", STAGES[1], (1, False))]))
    assert set(stage.arms["stable"].of("error")) == {1, 2}
    assert set(stage.arms["stable"].of("first_error")) == {2}


def test_counts_for_people_stay_apart_by_replica() -> None:
    stage = only(merged([one("b", STAGES[1], (1, True)), one("a", STAGES[1], (1, False), (1, False))]))
    assert stage.arms["stable"].counters == {"a": {"answer": 2}, "b": {"500": 1}}
    assert stage.replicas == ("a", "b")


def test_replicas_that_tell_of_other_versions_are_left_out() -> None:
    other = TrialStage(2, "v1.0.0", "v9.0.0", TRIAL, "split", 10.0)
    told = [one("a", other, (1, True)), one("b", STAGES[1], (2, False)), one("c", STAGES[1], (3, False))]
    stage = counted_in(STAGES[1], told)
    assert (stage.stage, stage.replicas, stage.contradicting) == (STAGES[1], ("b", "c"), ("a",))
    assert set(stage.arms["stable"].of("asked")) == {2, 3}


def test_a_majority_that_lies_hides_no_true_count() -> None:
    other = TrialStage(2, "v1.0.0", "v2.0.0", TRIAL, "split", 11.0)
    told = [one("a", STAGES[1], (1, True)), *(one(f"x{number}", other, (2, False)) for number in range(4))]
    stage = counted_in(STAGES[1], told)
    assert (stage.replicas, set(stage.arms["stable"].of("error"))) == (("a",), {1})
    assert stage.contradicting == ("x0", "x1", "x2", "x3")


def test_nothing_is_merged_to_nothing() -> None:
    assert merged([]) == {}

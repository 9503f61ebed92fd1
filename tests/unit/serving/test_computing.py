"""The canary of a shadow trial: computed with stable's rows where there is room, and never at their cost."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from registry.serving import computing
from registry.serving.admitted_row import AdmittedRow, ShadowRow
from registry.serving.computing import BatchComputer, ShadowRoom
from registry.serving.observer import SettledRow
from registry.serving.scheduler import Scheduler
from registry.serving.trial_counts import TrialCounts
from registry.trials.recorder import Recorder
from tests.support.batch_flavor import (
    NO_FILE,
    NO_IMAGE,
    POISON,
    SIZE,
    Controls,
    ReadRow,
    TogetherEcho,
    routed,
    together,
)
from tests.support.echo_releases import wait_until
from tests.support.trials import serving_of, trial_record

LONG = 600.0


@dataclass(frozen=True, eq=False)
class Pair(TogetherEcho):
    """A version that adopts rows, fails on demand, and may be on a runtime of its own."""

    runs_on: str | None = None
    fails: list[Exception] = field(default_factory=list)
    adopts: bool = True

    def adopt(self, row: ReadRow) -> ReadRow | None:
        return ReadRow(self, row.image) if self.adopts and row.answer is None else None

    def predict(self, images: Any, *, target: object = None) -> Any:
        if self.fails:
            raise self.fails[0]
        return super().predict(images)


class Told:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[SettledRow] = []

    def batch_taken(self, waited: Sequence[float]) -> None: ...
    def batch_computed(self, seconds: float) -> None: ...
    def settled(self, rows: Sequence[SettledRow]) -> None:
        self.rows += rows


@pytest.fixture
def controls() -> Controls:
    return Controls()


def canary_of(controls: Controls, **fields: Any) -> Pair:
    return Pair("v2.0.0", "", b"canary", controls=controls, **fields)


def stable_of(controls: Controls) -> Pair:
    return Pair("v1.0.0", "", b"v1.0.0", controls=controls)


def asked(controls: Controls, canary: Pair, *images: bytes, expires: float = math.inf) -> list[AdmittedRow]:
    """Rows that were read for both versions."""
    stable = stable_of(controls)
    rows = [
        AdmittedRow(routed(stable, shadow=canary), image, None, expires, 0, 0.0, stable.prepare(image))
        for image in images
    ]
    for row in rows:
        row.shadow = ShadowRow(canary, prepared=canary.prepare(row.image))
    return rows


def run(rows: list[AdmittedRow], told: Told, computer: BatchComputer | None = None, idle: bool = True) -> BatchComputer:
    computer = computer or BatchComputer(told)
    computer.compute(rows, lambda count: 0.001 * count)
    computer.give(rows, lambda: idle)
    return computer


def answers(rows: list[AdmittedRow]) -> list[Any]:
    return [row.future.result(0) for row in rows]


def test_both_versions_go_through_one_pass(controls: Controls) -> None:
    told, canary = Told(), canary_of(controls)
    rows = asked(controls, canary, b"a", b"b")
    run(rows, told)
    assert controls.batches == [[b"a", b"b", b"a", b"b"]]
    assert answers(rows) == together(controls).predict([b"a", b"b"])
    assert [row.shadow.answer for row in told.rows if row.shadow] == canary.predict([b"a", b"b"])
    assert [row.shadow_outcome.answer for row in rows if row.shadow_outcome] == canary.predict([b"a", b"b"])


def test_a_canary_that_fails_costs_no_answer(controls: Controls) -> None:
    told, canary = Told(), canary_of(controls, fails=[ZeroDivisionError("canary")])
    rows = asked(controls, canary, b"a", b"b")
    computer = run(rows, told)
    assert answers(rows) == together(controls).predict([b"a", b"b"])
    assert controls.batches == [[b"a", b"b", b"a", b"b"], [b"a", b"b"], [b"a"], [b"b"]]
    assert [type(row.shadow.error) for row in told.rows if row.shadow] == [ZeroDivisionError] * 2

    controls.batches.clear()
    run(asked(controls, canary, b"c"), told, computer)
    assert controls.batches == [[b"c"], [b"c"]]  # stable's pass is its own from now on


def test_what_a_failed_canary_owes_is_shed_when_others_wait(controls: Controls) -> None:
    told, canary = Told(), canary_of(controls, fails=[ZeroDivisionError("canary")])
    rows = asked(controls, canary, b"a", b"b")
    run(rows, told, idle=False)
    assert answers(rows) == together(controls).predict([b"a", b"b"])
    assert [(row.shadow, row.was_shed) for row in told.rows] == [(None, True)] * 2


def test_an_image_that_breaks_stable_is_stables_own_error(controls: Controls) -> None:
    told, canary = Told(), canary_of(controls)
    rows = asked(controls, canary, b"a", POISON)
    run(rows, told)
    assert answers(rows[:1]) == [together(controls).predict(b"a")]
    assert isinstance(rows[1].future.exception(), MemoryError)


def test_another_runtime_has_passes_of_its_own(controls: Controls) -> None:
    told, canary = Told(), canary_of(controls, runs_on="another backbone")
    computer = run(asked(controls, canary, b"a"), told)
    assert controls.batches == [[b"a"], [b"a"]]
    first = told.rows[-1]
    assert first.shadow is not None
    assert first.shadow.answer == canary.predict(b"a")

    rows = asked(controls, canary, b"b", b"c")
    run(rows, told, computer)
    assert controls.batches[2:] == [[b"b", b"c"], [b"b", b"c"]]
    assert [row.shadow_outcome.answer for row in rows if row.shadow_outcome] == canary.predict([b"b", b"c"])


def test_an_unknown_pace_lets_stable_answer_first(controls: Controls) -> None:
    told, order = Told(), []
    canary = canary_of(controls, runs_on="another backbone")
    (row,) = asked(controls, canary, b"a")
    row.future.add_done_callback(lambda future: order.append(len(controls.batches)))
    run([row], told)
    assert order == [1]
    assert len(controls.batches) == 2


def test_a_canary_that_would_make_rows_wait_is_shed(
    controls: Controls, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, canary = Told(), canary_of(controls, runs_on="another backbone")
    monkeypatch.setattr(computing, "SHADOW_SECONDS", 0.0)
    computer = BatchComputer(told)
    for image in (b"a", b"b", b"c"):  # the first says how long it takes
        computer.compute(asked(controls, canary, image), lambda count: 0.0)
        rows = asked(controls, canary, image)
        computer.compute(rows, lambda count: 0.0)
        computer.give(rows, lambda: True)
    assert [row.was_shed for row in told.rows] == [False, True, True]
    assert [row.shadow is None for row in told.rows] == [False, True, True]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "v2.0.0 takes" in caplog.text

    monkeypatch.setattr(computing, "AGAIN_SECONDS", 0.0)
    rows = asked(controls, canary, b"d")
    run(rows, told, computer)
    assert told.rows[-1].shadow is not None


@pytest.mark.parametrize("adopts", [True, False])
def test_a_canary_that_was_far_too_slow_at_its_load_is_not_tried(
    controls: Controls, monkeypatch: pytest.MonkeyPatch, adopts: bool
) -> None:
    told, canary = Told(), canary_of(controls, runs_on=None if adopts else "elsewhere")
    computer = BatchComputer(told)
    computer.expected.append((canary.version, computing.HOPELESS_SECONDS + 0.1))
    run(asked(controls, canary, b"a"), told, computer)
    assert controls.batches == [[b"a"]]
    assert [(row.shadow, row.was_shed) for row in told.rows] == [(None, True)]
    monkeypatch.setattr(computing, "AGAIN_SECONDS", 0.0)
    computer.expected.append((canary.version, computing.HOPELESS_SECONDS + 0.1))
    run(asked(controls, canary, b"b"), told, computer)
    assert told.rows[-1].shadow


def test_a_first_image_that_took_a_little_longer_says_nothing(controls: Controls) -> None:
    told, canary = Told(), canary_of(controls)
    computer = BatchComputer(told)
    computer.expected.append((canary.version, 0.9 * computing.HOPELESS_SECONDS))
    run(asked(controls, canary, b"a"), told, computer)
    assert controls.batches == [[b"a", b"a"]]


def test_a_failed_pass_of_the_canary_is_timed_too(controls: Controls, monkeypatch: pytest.MonkeyPatch) -> None:
    told, canary = Told(), canary_of(controls, runs_on="another backbone", fails=[ZeroDivisionError()])
    monkeypatch.setattr(computing, "SHADOW_SECONDS", 0.0)
    computer = BatchComputer(told)
    for _ in range(2):
        rows = asked(controls, canary, b"a")
        computer.compute(rows, lambda count: 0.0)
        computer.give(rows, lambda: True)
    assert [row.was_shed for row in told.rows] == [False, True]


def test_a_canary_slows_no_pass_of_stable_twice(controls: Controls, monkeypatch: pytest.MonkeyPatch) -> None:
    told, canary = Told(), canary_of(controls)
    monkeypatch.setattr(computing, "SHADOW_SECONDS", -1.0)  # any pass is too long
    computer = BatchComputer(told)
    for image in (b"a", b"b"):
        computer.compute(asked(controls, canary, image), lambda count: 0.0)
    assert controls.batches == [[b"a", b"a"], [b"b"]]


@pytest.mark.parametrize(
    ("waiting", "limit", "seconds", "room"),
    [(0, 8, 0.0, 2), (1, 8, 0.0, 0), (0, 3, 0.0, 1), (0, 2, 0.0, 0), (0, 8, 100.0, 0)],
)
def test_shadow_rows_take_the_room_that_is_left(
    controls: Controls, waiting: int, limit: int, seconds: float, room: int
) -> None:
    rows = asked(controls, canary_of(controls), b"a", b"b", expires=time.monotonic() + 50)
    assert ShadowRoom().beside(rows, waiting, limit, lambda count: seconds) == room


def test_a_batch_larger_than_usual_has_no_shadows(controls: Controls) -> None:
    canary, room = canary_of(controls), ShadowRoom()
    one, two, six = (asked(controls, canary, *[b"a"] * count) for count in (1, 2, 6))

    def beside(rows: Sequence[AdmittedRow]) -> int:
        return room.beside(rows, 0, 32, lambda count: 0.0)

    assert [beside(rows) for rows in (one, two, six)] == [1, 2, 0]
    for _ in range(500):
        beside(six)
    assert beside(asked(controls, canary, *[b"a"] * 5)) == 5
    for _ in range(500):
        beside(one)
    assert [beside(rows) for rows in (six, two)] == [0, 2]


# --- through the scheduler, into a recorder --------------------------------------------------------------------------


@dataclass
class Replica:
    """A scheduler whose rows are counted for a shadow trial."""

    controls: Controls
    canary: TogetherEcho
    waiting_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        self.recorder = Recorder("replica-1", "host")
        self.scheduler = Scheduler(4, self.waiting_bytes, TrialCounts(self.recorder))
        self.serving = serving_of(trial_record("shadow", 100), stable_of(self.controls), self.canary)
        self.scheduler.start()

    def ask(self, *images: bytes) -> list[Any]:
        rows = [self.scheduler.submit(self.serving.choose(str(n)), one, None, LONG) for n, one in enumerate(images)]
        return [row.future.exception(60) or row.future.result() for row in rows]

    def arms(self) -> dict[str, Any]:
        (stage,) = self.recorder.document().stages
        return dict(stage.arms)

    def wait_for(self, counted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        wait_until(lambda: self.recorder.document().stages and counted(self.arms()))
        self.scheduler.close(60)
        return self.arms()


@pytest.mark.parametrize("adopts", [True, False])
def test_an_idle_replica_counts_pairs(controls: Controls, adopts: bool) -> None:
    replica = Replica(controls, canary_of(controls, adopts=adopts))
    assert replica.ask(b"a") == [together(controls).predict(b"a")]
    arms = replica.wait_for(lambda arms: arms["canary"].counters)
    assert {arm: dict(counts.counters) for arm, counts in arms.items()} == {
        "stable": {"answer": 1}, "canary": {"answer": 1},
    }  # fmt: skip
    assert controls.batches == ([[b"a", b"a"]] if adopts else [[b"a"], [b"a"]])


class Fails(Told):
    """An observer that fails at an answer of one version."""

    def settled(self, rows: Sequence[SettledRow]) -> None:
        if any(row.outcome.error is None for row in rows):
            raise ZeroDivisionError("count")
        super().settled(rows)


def test_an_observer_that_fails_ends_no_computing(controls: Controls, caplog: pytest.LogCaptureFixture) -> None:
    scheduler = Scheduler(4, observer=Fails())
    scheduler.start()
    for image in (b"a", b"b", NO_IMAGE):
        assert scheduler.predict(routed(stable_of(controls)), image, None, LONG).version == "v1.0.0"
    scheduler.close(60)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "count" in caplog.text


@dataclass(frozen=True, eq=False)
class Odd(TogetherEcho):
    """A version that can't say what it runs on, or says what has no hash; or whose answers are odd."""

    says: Any = None
    answer: Any = None

    @property
    def runs_on(self) -> Any:
        if self.says is None:
            raise RuntimeError("unknown")
        return self.says

    def adopt(self, row: ReadRow) -> ReadRow | None:
        return ReadRow(self, row.image)

    @staticmethod
    def answer_rows(rows: Sequence[Any]) -> list[Any]:
        return [getattr(row.version, "answer", None) or row.version.predict(row.image) for row in rows]


@pytest.mark.parametrize("says", [None, ["cpu"]])
def test_an_odd_runtime_ends_no_computing(controls: Controls, says: Any) -> None:
    replica = Replica(controls, Odd("v2.0.0", "", b"canary", controls=controls, says=says))
    assert [one.version for one in replica.ask(b"a") + replica.ask(b"b")] == ["v1.0.0"] * 2
    replica.wait_for(lambda arms: sum(arms["stable"].counters.values()) == 2)

    scheduler = Scheduler(4)
    scheduler.start()
    odd = Odd("v2.0.0", "", b"canary", controls=controls, says=says)
    assert scheduler.predict(routed(odd), b"a", None, LONG).version == "v2.0.0"
    scheduler.close(60)


def test_odd_answers_of_the_canary_are_its_errors(controls: Controls) -> None:
    canary = Odd("v2.0.0", "", b"canary", controls=controls, says="another backbone", answer=object())
    replica = Replica(controls, canary)
    assert [one.version for one in replica.ask(b"a") + replica.ask(b"b")] == ["v1.0.0"] * 2
    arms = replica.wait_for(lambda arms: arms["canary"].counters)
    assert set(arms["canary"].counters) == {"500"}


def test_no_answer_is_an_error(controls: Controls) -> None:
    class Silent(Pair):
        @staticmethod
        def answer_rows(rows: Sequence[Any]) -> list[Any]:
            return [None for _ in rows]

    (row,) = asked(controls, canary_of(controls), b"a")
    row.route = routed(Silent("v3.0.0", "", b"silent", controls=controls))
    run([row], Told())
    assert isinstance(row.future.exception(0), RuntimeError)


@dataclass(frozen=True, eq=False)
class Reads(Pair):
    """A canary that reads images itself, and waits before it does."""

    may_read: threading.Event = field(default_factory=threading.Event)
    runs_on: str | None = "another backbone"
    adopts: bool = False

    def prepare(self, image: bytes, target: str | None = None) -> ReadRow:
        assert self.may_read.wait(60)
        return super().prepare(image, target)


@pytest.mark.parametrize("image", [b"a", NO_IMAGE])
def test_stables_answer_waits_for_no_reading_of_the_canary(controls: Controls, image: bytes) -> None:
    canary = Reads("v2.0.0", "", b"canary", controls=controls)
    replica = Replica(controls, canary)
    assert replica.ask(image)[0].version == "v1.0.0"
    canary.may_read.set()
    replica.wait_for(lambda arms: arms["canary"].counters)


def test_the_canary_takes_no_memory_of_stables_rows(controls: Controls) -> None:
    replica = Replica(controls, canary_of(controls, adopts=False, runs_on="another backbone"), waiting_bytes=25 * SIZE)
    controls.computing.clear()
    rows = []
    for number in range(20):
        rows.append(replica.scheduler.submit(replica.serving.choose("k"), b"%d" % number, None, LONG))
        wait_until(lambda: all(row.prepared for row in list(replica.scheduler._waiting)))
    controls.computing.set()
    assert [row.future.result(60).version for row in rows] == ["v1.0.0"] * 20
    replica.wait_for(lambda arms: sum(arms["stable"].counters.values()) == 20)
    assert (replica.scheduler.budget.taken, replica.scheduler._shadow_budget.taken) == (0, 0)


def test_a_queue_sheds_the_canary_first(controls: Controls) -> None:
    replica = Replica(controls, canary_of(controls))
    controls.computing.clear()
    rows = [replica.scheduler.submit(replica.serving.choose("k"), b"%d" % n, None, LONG) for n in range(9)]
    wait_until(lambda: all(row.prepared for row in list(replica.scheduler._waiting)) and controls.batches)
    controls.computing.set()
    assert [row.future.result(60).version for row in rows] == ["v1.0.0"] * 9
    arms = replica.wait_for(lambda arms: sum(arms["stable"].counters.values()) == 9)
    assert arms["stable"].counters["shed"] >= 4
    assert arms["stable"].counters["shed"] + arms["canary"].counters.get("answer", 0) == 9


def test_the_canarys_errors_are_its_own(controls: Controls) -> None:
    replica = Replica(controls, canary_of(controls, fails=[ZeroDivisionError("canary")]))
    assert replica.ask(b"a") == [together(controls).predict(b"a")]
    arms = replica.wait_for(lambda arms: arms["canary"].counters)
    assert (len(arms["canary"].units["error"]), "error" in arms["stable"].units) == (1, False)
    assert arms["canary"].counters == {"500": 1}


def test_an_image_that_is_none_is_a_pair_of_refusals(controls: Controls) -> None:
    replica = Replica(controls, canary_of(controls))
    assert [one.outcome for one in replica.ask(NO_IMAGE)] == ["corrupt_image"]
    arms = replica.wait_for(lambda arms: arms["canary"].counters)
    assert [dict(counts.counters) for counts in arms.values()] == [{"corrupt_image": 1}] * 2
    assert controls.batches == []


def test_a_mistake_of_the_caller_is_no_error_of_the_version(controls: Controls) -> None:
    replica = Replica(controls, canary_of(controls))
    replica.ask(NO_FILE)
    arms = replica.wait_for(lambda arms: arms["stable"].counters)
    assert "error" not in arms["stable"].units

"""What becomes of a row, as a trial counts it: whose error it is, and what is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from registry.errors import BadImage, Expired, LoadFailed, Overloaded, ReplicaClosed
from registry.serving.observer import RowOutcome, SettledRow
from registry.serving.routing import Route
from registry.serving.trial_counts import TrialCounts, counted
from registry.trials.observations import ArmCounts, LeftOut
from registry.trials.recorder import Recorder
from tests.support.echo_releases import Echo
from tests.support.trials import serving_of, trial_record

STABLE, CANARY = Echo("v1.0.0", "", b"1"), Echo("v2.0.0", "", b"2")
SPLIT = serving_of(trial_record("split", 50), STABLE, CANARY)
SHADOW = serving_of(trial_record("shadow", 100), STABLE, CANARY)


@dataclass(frozen=True)
class Answer:
    """An answer of a version with numbers."""

    version: str = "v1.0.0"
    outcome: str = "answer"
    label: str | None = "healthy"
    confidence: float = 0.9
    ood_score: float | None = 0.1
    is_ood: bool = False
    target_confidence: float = 0.9


class Unreadable:
    """An answer whose fields can't be read."""

    @property
    def outcome(self) -> str:
        raise RuntimeError("no outcome")


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (Answer(confidence=None), "not_finite"),  # type: ignore[arg-type]
        (Answer(confidence="0.9"), "not_finite"),  # type: ignore[arg-type]
        (Answer(label=3), "500"),  # type: ignore[arg-type]
        (Answer(outcome=None), "500"),  # type: ignore[arg-type]
        (object(), "500"), (Unreadable(), "500"),
    ],
)  # fmt: skip
def test_an_odd_answer_is_an_error_of_the_version(answer: Any, name: str) -> None:
    counts = counts_of(SettledRow(route_to("canary"), RowOutcome(answer)))["canary"]
    assert (dict(counts.counters), len(counts.units["error"])) == ({name: 1}, 1)


class Routed(Echo):
    """A version with a router."""

    has_router = True
    targets_with_ood: frozenset[str] = frozenset()


def counts_of(*rows: SettledRow) -> dict[str, ArmCounts]:
    recorder = Recorder("replica-1", "host")
    TrialCounts(recorder).settled(rows)
    (stage,) = recorder.document().stages
    return dict(stage.arms)


def route_to(arm: str) -> Route:
    return next(route for route in (SPLIT.choose(str(n)) for n in range(100)) if route.arm == arm)


@pytest.mark.parametrize(
    ("error", "while_reading", "name"),
    [
        (BadImage("no leaf"), True, "400"), (TypeError("an image is no number"), True, "400"),
        (TypeError("a bug"), False, "500"), (MemoryError(), False, "500"), (LoadFailed("x"), False, "500"),
        (Expired("late"), True, "504"), (Overloaded("full"), True, "429"), (ReplicaClosed("gone"), True, "503"),
    ],
)  # fmt: skip
def test_only_a_500_is_the_versions_error(error: Exception, while_reading: bool, name: str) -> None:
    found = counted(RowOutcome(error=error, while_reading=while_reading), STABLE)
    assert (found.outcome, found.error) == (name, name == "500")


@pytest.mark.parametrize(
    ("answer", "outcome", "error", "flagged"),
    [
        (Answer(), "answer", False, False),
        (Answer(outcome="review", is_ood=True, ood_score=3.0), "review", False, True),
        (Answer(outcome="review", is_ood=True, ood_score=None, label=None), "not_finite", True, False),
        (Answer(confidence=float("nan")), "not_finite", True, False),
        (Answer(outcome="router_uncertain", target_confidence=0.0, label=None), "not_finite", True, False),
        (Answer(outcome="router_uncertain", target_confidence=0.3, label=None), "router_uncertain", False, False),
    ],
)  # fmt: skip
def test_numbers_that_are_none_are_an_error(answer: Answer, outcome: str, error: bool, flagged: bool) -> None:
    found = counted(RowOutcome(answer), Routed("v1.0.0", "", b""))  # type: ignore[arg-type]
    assert (found.outcome, found.error, found.flagged) == (outcome, error, flagged)


def test_an_answer_that_nobody_waited_for_is_an_error() -> None:
    outcome = RowOutcome(Answer(), compute_seconds=9.0)  # type: ignore[arg-type]
    late = counted(outcome, STABLE, seconds=9.5, is_late=True)
    assert (late.outcome, late.error, late.compute_seconds, late.request_seconds) == ("late", True, 9.0, 9.5)


def test_each_arm_counts_its_own_rows() -> None:
    rows: list[Any] = [SettledRow(route_to(arm), RowOutcome(Answer())) for arm in ("stable", "canary", "canary")]
    arms = counts_of(*rows)
    assert {arm: dict(counts.counters) for arm, counts in arms.items()} == {
        "stable": {"answer": 1}, "canary": {"answer": 2},
    }  # fmt: skip
    assert [len(arms[arm].units["asked"]) for arm in ("stable", "canary")] == [1, 1]


def test_numbers_that_are_none_are_a_failure_of_their_arm() -> None:
    broken = RowOutcome(Answer(confidence=float("nan")))  # type: ignore[arg-type]
    route = SHADOW.choose("k")
    arms = counts_of(SettledRow(route, RowOutcome(Answer()), broken))  # type: ignore[arg-type]
    assert [dict(arms[arm].failures) for arm in ("stable", "canary")] == [{}, {"not_finite": 1}]
    assert [len(arms[arm].units.get("error", ())) for arm in ("stable", "canary")] == [0, 1]


@pytest.mark.parametrize("why", ["forced", "without_canary", "not_shadowed"])
def test_what_is_left_out_is_counted_for_people_only(why: LeftOut) -> None:
    route = Route(STABLE, "", stage=SPLIT.stage, left_out=why)
    arms = counts_of(SettledRow(route, RowOutcome(Answer())))  # type: ignore[arg-type]
    assert (dict(arms["stable"].counters), len(arms["stable"].units.get("asked", ()))) == ({why: 1}, 0)


def test_a_pair_without_its_canary_is_shed() -> None:
    arms = counts_of(SettledRow(SHADOW.choose("k"), RowOutcome(Answer())))  # type: ignore[arg-type]
    assert [dict(arms[arm].counters) for arm in ("stable", "canary")] == [{"shed": 1}, {}]
    assert "asked" not in arms["stable"].units

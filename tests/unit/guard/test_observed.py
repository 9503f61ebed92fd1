"""Times of windows by the store's clock, and who is told of what when."""

from __future__ import annotations

from datetime import timedelta

import pytest

from registry.errors import BadManifest
from registry.guard.alerts import Alerts
from registry.guard.finding import GuardFinding, Outcome, worst
from registry.trials.observations import Observations, Window
from registry.usecases.observed import by_the_stores_clock
from tests.support.watched_trials import NOW, Fleet, started


def observations(ahead: float) -> Observations:
    fleet = Fleet(("a",), clocks={"a": ahead}, now=NOW - timedelta(seconds=10))
    records = started()
    fleet.begin(records[-1])
    fleet.ask(records[-1], 50)
    fleet.now = NOW
    return fleet.observations()[0]


def windows(counted: Observations) -> tuple[Window, ...]:
    return counted.stages[0].arms["stable"].windows


@pytest.mark.parametrize("ahead", [3600.0, -3600.0, 86_400.0])
def test_windows_are_moved_to_the_clock_of_the_store(ahead: float) -> None:
    right, wrong = observations(0.0), observations(ahead)
    assert windows(wrong) != windows(right)
    assert windows(by_the_stores_clock(wrong, NOW)) == windows(right)


@pytest.mark.parametrize("ahead", [0.0, 59.0, -59.0])
def test_clocks_that_are_nearly_right_are_left_alone(ahead: float) -> None:
    counted = observations(ahead)
    assert by_the_stores_clock(counted, NOW) is counted


def test_a_time_that_is_none_is_an_error_of_its_object() -> None:
    with pytest.raises(BadManifest, match="do not say when"):
        by_the_stores_clock(observations(0.0).model_copy(update={"when": "noon"}), NOW)


def found(about: str, outcome: Outcome, *, is_told: bool = True, dry_run: bool = False) -> GuardFinding:
    return GuardFinding(about=about, outcome=outcome, is_told=is_told, dry_run=dry_run, reason="")


def test_reasons_to_hold_are_told_once_they_stay() -> None:
    now = [0.0]
    alerts = Alerts(30.0, lambda: now[0])
    late, bad = found("no observations", "hold"), found("errors", "fail")
    assert alerts.due([late, bad]) == [bad]
    now[0] = 29.0
    assert alerts.due([late]) == []
    now[0] = 30.0
    assert alerts.due([late]) == [late]
    assert alerts.due([]) == []
    assert alerts.due([late]) == []


def test_what_is_only_tried_is_not_told() -> None:
    tried, quiet = found("a", "fail", dry_run=True), found("b", "pass", is_told=False)
    assert Alerts().due([tried, quiet]) == []


def test_the_outcome_that_counts_most_is_the_first_of_four() -> None:
    order: tuple[Outcome, ...] = ("fail", "broken", "hold", "pass")
    for place, outcome in enumerate(order):
        assert worst(found(each, each) for each in reversed(order[place:])) == outcome
    assert worst([found("tried", "fail", dry_run=True)]) == "pass"
    assert worst([]) == "pass"

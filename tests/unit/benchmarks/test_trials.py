"""The benchmark of trials: that it runs, is seeded, and that each way to judge it has does what its source says."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.trials import nulls
from benchmarks.trials.command import PARTS, main
from benchmarks.trials.detection import CASES, Worse, of_case
from benchmarks.trials.effort import TrialEffort
from benchmarks.trials.judging import verdict
from benchmarks.trials.rivals import ArmTotals, flagger, growthbook, p_below_5_percent
from benchmarks.trials.shadow_cost import MOST
from benchmarks.trials.traffic import NULLS, Look, SimulatedTraffic, Truth, looks
from registry.guard.guard import EVERY


def measured(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(main, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return dict(json.loads(done.stdout))


def ours(case: Worse, effort: TrialEffort) -> float:
    return float(of_case(case, effort)["ours"])


def ends(traffic: SimulatedTraffic, canary: Truth, seed: int = 1) -> str:
    return next((found for look in looks(traffic, Truth(), canary, seed) if (found := verdict(look))), "")


@pytest.mark.acceptance
def test_every_part_runs_and_judges_its_budgets() -> None:
    result = measured("--quick")
    assert [budget["limit"] for budget in result["budgets"]] == [*[nulls.MOST] * len(NULLS), MOST, EVERY]
    assert result["met"] == all(budget["met"] for budget in result["budgets"])
    assert {name.partition(":")[0] for name in result["figures"]} == set(PARTS)


def test_a_seed_gives_one_result() -> None:
    first, second = (
        list(looks(SimulatedTraffic("small", keys=50, requests=200), Truth(), Truth(), 3)) for _ in range(2)
    )
    assert first == second


def test_detection_takes_longer_the_smaller_the_harm() -> None:
    cases = {case.name: case for case in CASES}
    shadow = [
        ours(Worse("", 0.045, 0.045 + drop / 100, 0.5, 0.02, 60, is_shadow=True), TrialEffort(9)) for drop in (1, 3)
    ]
    errors = [ours(cases[f"errors {rates}, 50% canary"], TrialEffort(3)) for rates in ("2% -> 4%", "0.5% -> 2%")]
    assert 0 < shadow[1] < shadow[0] < math.inf
    assert all(0 < units < math.inf for units in errors)


@pytest.mark.parametrize(
    "worse", [Truth(error=0.06), Truth(wrong=0.4), Truth(missed=0.9, alarmed=0.5), Truth(milliseconds=140.0)]
)
def test_what_is_much_worse_is_rolled_back(worse: Truth) -> None:
    assert ends(NULLS[0], worse) == "rollback"


@pytest.mark.parametrize("name", ["Zipf keys", "a slow client"])
def test_what_is_equal_stays(name: str) -> None:
    (traffic,) = [each for each in NULLS if each.name == name]
    assert ends(traffic, Truth()) == ""


def test_labels_of_one_arm_break_a_trial_and_roll_nothing_back() -> None:
    assert ends(SimulatedTraffic("one arm's labels", labels_of_canary=4.0, labelled=0.2), Truth()) == "broken"


def test_the_stages_of_a_look_follow_the_plan() -> None:
    every: list[Look] = list(looks(SimulatedTraffic("small", keys=50, requests=200), Truth(), Truth(), 1))
    assert [len(look.stages) for look in every] == [1] * 10 + [2] * 10
    assert [stage.stage.weight for stage in every[-1].stages] == [10.0, 50.0]
    assert all(stage.arms["canary"].windows for stage in every[-1].stages)


def test_a_test_of_two_proportions_finds_what_is_significant() -> None:
    assert p_below_5_percent([ArmTotals(10, 100, 40, 900)])
    assert not p_below_5_percent([ArmTotals(5, 100, 40, 900)])
    assert not p_below_5_percent([ArmTotals(0, 0, 0, 900)])


def test_flagger_counts_failed_checks() -> None:
    bad = [ArmTotals(2 * number, 100 * number, 0, 0) for number in range(1, 6)]
    assert flagger(bad)
    assert not flagger(bad[:4])
    assert not flagger([ArmTotals(number, 100 * number, 0, 0) for number in range(1, 50)])


def test_growthbook_takes_more_than_a_test_at_one_look() -> None:
    one = [ArmTotals(35, 1000, 180, 9000)]
    assert p_below_5_percent(one)
    assert not growthbook(one)
    assert growthbook([ArmTotals(80, 1000, 180, 9000)])

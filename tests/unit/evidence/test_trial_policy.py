"""The section `trials` of a policy: plans, durations, and how often the guard may err."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadInput, BadPolicy
from registry.evidence import kept_policy
from registry.evidence.policy import Policy, load_policy, parse_policy
from registry.evidence.trial_policy import seconds_of

CHANNELS = "format: 1\nchannels: {staging: {}, production: {}}\n"


def policy(trials: str) -> Policy:
    return parse_policy(f"{CHANNELS}trials: {trials}\n".encode())


def steps(*said: str) -> str:
    """A plan whose step number N stands on line N + 6."""
    return "\n  plans:\n    mine:\n" + "".join(f"      - {{{step}}}\n" for step in said)


def test_the_default_plan_is_ten_fifty_all() -> None:
    plan = load_policy().trial_plan()
    assert str(plan) == "10% for 24h and 1000 units, then 50% for 24h and 5000 units, then 100%, watched for 7d"
    assert [(step.hold_seconds, step.bake_seconds) for step in plan.steps] == [(86400, 0), (86400, 0), (0, 604800)]
    assert load_policy().trial_policy().max_hold_seconds == 72 * 3600


def test_a_policy_that_says_a_part_has_the_rest_of_what_ships() -> None:
    said = policy("{max_hold: 2h}")
    assert said.trial_policy().max_hold_seconds == 7200
    assert said.trial_plan() == load_policy().trial_plan()
    assert said.trial_policy().alpha == load_policy().trial_policy().alpha
    assert kept_policy.read(said.to_bytes(), "policy") == said
    full = said.in_full()
    assert kept_policy.read(full.to_bytes(), "policy").trial_plan() == said.trial_plan()


def test_plans_take_the_place_of_those_that_ship() -> None:
    said = policy(steps("percent: 2.5, hold: 30m", "percent: 20, hold: 90s, min_units: 5"))
    assert str(said.trial_plan("mine")) == "2.5% for 30m, then 20% for 90s and 5 units"
    with pytest.raises(BadInput, match="no plan 'default'"):
        said.trial_plan()
    with pytest.raises(BadInput, match="did you mean mine"):
        said.trial_plan("mien")


def test_the_horizon_of_a_report_is_declared_in_the_policy() -> None:
    shipped, said = load_policy().trial_policy().horizon, policy("{horizon: {units: 100}}")
    assert (shipped.units, shipped.significance, shipped.min_accuracy_gain, shipped.max_error_rate) == (
        2500, 0.05, 0.005, 0.001,
    )  # fmt: skip
    assert (said.trial_policy().horizon.units, said.trial_policy().horizon.margin) == (100, shipped.margin)
    assert kept_policy.read(said.to_bytes(), "policy") == said


def test_a_policy_that_says_nothing_else_keeps_its_digest() -> None:
    assert policy("{horizon: {units: 2500}}").digest == policy("{max_hold: 72h}").digest == policy("{}").digest
    assert b"horizon" not in load_policy().to_bytes()
    assert policy("{horizon: {units: 100}}").digest != policy("{}").digest


def test_a_canary_is_at_the_last_step_that_it_has_reached() -> None:
    plan = load_policy().trial_plan()
    asked = [(plan.step_at(percent), plan.step_after(percent)) for percent in (5, 10, 30, 50, 100)]
    percents = [(at and at.percent, after and after.percent) for at, after in asked]
    assert percents == [(None, 10), (10, 50), (10, 50), (50, 100), (100, None)]


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        (steps("percent: 10, hold: 1h", "percent: 10, hold: 1h"), r"line 7: .*mine\.1\.percent: 10 is not above"),
        (steps("percent: 50, hold: 1h", "percent: 10, hold: 1h"), r"10 is not above 50"),
        (steps("percent: 0, hold: 1h"), r"line 6: trials\.plans\.mine\.0\.percent: .*greater than 0"),
        (steps("percent: 101, bake: 1h"), r"less than or equal to 100"),
        (steps("percent: 10.123, hold: 1h"), r"two decimals"),
        (steps("percent: 10"), r"trials\.plans\.mine\.0: a step below 100 needs `hold`"),
        (steps("percent: 10, hold: 1h, bake: 1h"), r"mine\.0\.bake: `bake` is for the time after 100"),
        (steps("percent: 100, hold: 1h"), r"mine\.0\.hold: at 100 the trial has ended"),
        (steps("percent: 100, min_units: 10"), r"mine\.0\.min_units: at 100"),
        (steps("percent: 10, hold: 1h, min_units: 60000"), r"less than or equal to 50000"),
        (steps("percent: 10, hold: 90"), r"line 6: trials\.plans\.mine\.0\.hold: a duration is"),
        (steps("percent: 10, hold: 1h, units: 5"), r"no field 'units' here; did you mean min_units\?"),
        ("\n  plans: {mine: []}", r"trials\.plans\.mine: .*at least 1 item"),
        ("\n  plans: {Mine: [{percent: 100}]}", r"trials\.plans\.Mine"),
        ("\n  max_hold: 3 days", r"line 4: trials\.max_hold: a duration"),
        ("\n  max_holt: 3d", r"there is no field 'max_holt' here; did you mean max_hold\?"),
        ("\n  alpha: {errors: 0.03}", r"line 4: trials\.alpha: 0\.06 in all: more than the 0\.05"),
        ("\n  alpha: {errors: 0}", r"trials\.alpha\.errors: .*greater than 0"),
        ("\n  alpha: {error: 0.01}", r"there is no field 'error' here; did you mean errors\?"),
        ("\n  horizon: {unit: 100}", r"line 4: .*there is no field 'unit' here; did you mean units\?"),
        ("\n  horizon: {units: 0}", r"trials\.horizon\.units: .*greater than or equal to 10"),
        ("\n  horizon: {significance: 0.5}", r"trials\.horizon\.significance: .*less than or equal to 0\.1"),
        ("\n  horizon: {margin: 0}", r"trials\.horizon\.margin: .*greater than 0"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_field(trials: str, said: str) -> None:
    with pytest.raises(BadPolicy, match=said):
        policy(trials)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("24h", 86400), ("7d", 604800), ("366d", 366 * 86400)]
)
def test_a_duration_is_a_number_with_its_unit(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@given(st.text(max_size=12) | st.from_regex(r"[-+ ]?[0-9]{1,12}[smhdw]?[\n ]?", fullmatch=True))
def test_any_other_text_is_no_duration(text: str) -> None:
    digits, unit = text[:-1], text[-1:]
    is_one = digits.isascii() and digits.isdigit() and digits[0] != "0" and unit in ("s", "m", "h", "d")
    if is_one and int(digits) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit] <= 366 * 86400:
        assert seconds_of(text) > 0
        return
    with pytest.raises(ValueError, match="a duration is"):
        seconds_of(text)

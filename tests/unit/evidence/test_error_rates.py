"""How often rules pass bad versions and good ones: exactly, over every number of right answers that there can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gates import chances, paired_pass_probability, pass_probability, passing_counts, table
from registry.evidence.policy import load_policy, parse_policy


def passes(rule: str, true: float, n: int) -> float:
    """The probability that a version with this true share passes a rule on `n` images."""
    policy = parse_policy(f"format: 1\nchannels: {{staging: {{}}, production: {{defaults: [{{{rule}}}]}}}}".encode())
    (parsed,) = policy.channels["production"].defaults
    return pass_probability(passing_counts(parsed, n), n, true)


@pytest.mark.parametrize("n", [100, 300, 1000])
@pytest.mark.parametrize("true", [0.90, 0.93])
def test_a_version_at_the_bound_passes_one_time_in_twenty(true: float, n: int) -> None:
    assert passes("metric: accuracy, min: 0.93, judge: bound", true, n) <= 0.05


@pytest.mark.parametrize("n", [100, 300, 1000])
def test_a_share_that_must_stay_small_is_bounded_as_well(n: int) -> None:
    assert passes("metric: accuracy, max: 0.07, judge: bound", 0.07, n) <= 0.05


@pytest.mark.parametrize(("true", "power"), [(0.97, 0.9), (0.98, 0.99)])
def test_three_hundred_images_suffice_for_a_good_version(true: float, power: float) -> None:
    assert passes("metric: accuracy, min: 0.93, judge: bound", true, 300) >= power


def test_the_value_alone_passes_a_bad_version_often() -> None:
    assert passes("metric: accuracy, min: 0.95", 0.94, 100) == pytest.approx(0.44, abs=0.01)
    assert passes("metric: accuracy, min: 0.95", 0.94, 300) == pytest.approx(0.28, abs=0.01)


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_a_rule_chooses_how_sure_it_must_be(confidence: float) -> None:
    rule = f"metric: accuracy, min: 0.93, judge: bound, confidence: {confidence}"
    assert passes(rule, 0.93, 300) <= 1 - confidence + 0.005  # the counts are whole numbers
    assert passes(rule, 0.97, 300) >= (0.95 if confidence < 0.95 else 0.7)


@pytest.mark.parametrize("n", [100, 300])
def test_a_drop_of_the_margin_passes_one_time_in_twenty(n: int) -> None:
    (rule,) = [each for each in load_policy().channels["production"].defaults if each.judge == "paired"]
    for gained in (0.0, 0.005, 0.02):
        assert paired_pass_probability(rule, n, gained, gained + rule.margin) <= 0.05
    assert paired_pass_probability(rule, 300, 0.01, 0.01) >= 0.9


@pytest.mark.acceptance
def test_the_documented_chances_are_those_of_the_default_policy() -> None:
    page = Path("docs/policy.md").read_text("utf-8")
    assert [line for line in table(list(chances())) if line not in page.splitlines()] == []

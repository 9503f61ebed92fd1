"""Rules against stable that look at the same images: what passes, what fails, and what nobody can tell."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from registry.errors import BadPolicy
from registry.evidence.check_lines import check_lines
from registry.evidence.gates import GateInputs, judge
from registry.evidence.number_text import number
from registry.evidence.outcomes import ImageOutcome, Kind, packed
from registry.evidence.paired import EVENTS, CompareOptions, compare, count_pairs
from registry.evidence.paired_stats import PairedCounts, lowest_difference
from registry.evidence.policy import Policy, parse_policy
from registry.evidence.results import BenchmarkRun, Evidence, Measurement, Metric
from registry.evidence.verdict import Check
from registry.formats import canonical
from tests.unit.evidence.samples import CONTENT, DATA, NOW, STABLE_CONTENT, candidate, stable

RULE = "metric: accuracy, max_decrease: 0.02, judge: paired"


def policy_of(rule: str, floor: str = "metric: accuracy, min: 0.1") -> Policy:
    listed = f"[{{{rule}}}, {{{floor}}}]"
    return parse_policy(f"format: 1\nchannels: {{staging: {{}}, production: {{defaults: {listed}}}}}".encode())


def answers(right: Sequence[bool], kind: Kind = "test", target: str = "low") -> list[ImageOutcome]:
    return [
        ImageOutcome(
            image=canonical.sha256(str(number).encode()), kind=kind, target=target, label="two",
            answered_label="two" if is_right else "three", is_ood=is_right, ood_score=float(is_right) + number / 1e6,
        )
        for number, is_right in enumerate(right)
    ]  # fmt: skip


def measured(found: Sequence[ImageOutcome], content: str, *, keeps: bool = True) -> Evidence:
    right = sum(one.answered_label == one.label for one in found)
    metrics = (
        Metric.proportion("accuracy", right, len(found)),
        Metric.proportion("accuracy", right, len(found), target="low"),
    )
    run = BenchmarkRun(
        benchmark="accuracy", model="digits", version="v2.0.0", content_sha256=content, device="cpu",
        runtime="torch-fp32", timestamp=NOW, seconds=1.0, libraries={}, who="tester",
    )  # fmt: skip
    digest = canonical.sha256(packed(found)) if keeps else ""
    return Evidence.of(Measurement(metrics, DATA, "digits", len(found)), run, digest)


def judged(
    newer: Sequence[bool], older: Sequence[bool], rule: str = RULE, *, kept: tuple[bool, bool] = (True, True)
) -> Check:
    """The check of a rule, for versions that answered these images right or wrong."""
    ours, theirs = answers(newer), answers(older)
    mine, other = measured(ours, CONTENT, keeps=kept[0]), measured(theirs, STABLE_CONTENT, keeps=kept[1])
    known = {mine.sha256: ours if kept[0] else [], other.sha256: theirs if kept[1] else []}
    inputs = GateInputs(
        "production", candidate(targets=("low",)), [mine], stable=stable(("low",)), stable_evidence=[other],
        outcomes=lambda evidence: known[evidence.sha256],
    )  # fmt: skip
    return judge(policy_of(rule), inputs, timestamp=NOW, who="tester").checks[0]


def differing(newer_only: int, older_only: int, n: int) -> tuple[list[bool], list[bool]]:
    """Answers of two versions that differ about so many of `n` images."""
    both = [True] * (n - newer_only - older_only)
    newer = [True] * newer_only + [False] * older_only + both
    older = [False] * newer_only + [True] * older_only + both
    return newer, older


def test_equal_answers_pass() -> None:
    check = judged(*differing(0, 0, 300))
    assert (check.outcome, check.observed, check.bound) == ("pass", 1.0, 0.98)
    assert check.end == pytest.approx(1 + lowest_difference(PairedCounts(0, 0, 300), 0.95))
    assert "on the same 300 images and with 95% confidence not more than 0.02 below stable" in check.reason


def test_a_drop_beyond_the_margin_fails() -> None:
    check = judged(*differing(1, 8, 300))
    assert check.outcome == "fail"
    assert "on the same 300 images more than 0.02 below stable" in check.reason


def test_a_drop_that_may_be_one_says_how_many_would_decide() -> None:
    check = judged(*differing(4, 6, 300))
    assert (check.outcome, check.n) == ("inconclusive", 300)
    assert check.wanted_n is not None
    scaled = differing(round(4 * check.wanted_n / 300), round(6 * check.wanted_n / 300), check.wanted_n)
    assert judged(*scaled).outcome == "pass"


def test_fewer_images_than_asked_are_inconclusive() -> None:
    check = judged(*differing(0, 0, 300), f"{RULE}, min_n: 400")
    assert (check.outcome, check.wanted_n) == ("inconclusive", 400)


@pytest.mark.parametrize(
    ("kept", "commands"),
    [
        ((False, True), ["ulora measure v2.0.0 --only accuracy"]),
        ((True, False), ["ulora measure v1.0.0 --only accuracy"]),
        ((False, False), ["ulora measure v2.0.0 --only accuracy", "ulora measure v1.0.0 --only accuracy"]),
    ],
)
def test_without_both_answers_it_names_what_to_run(kept: tuple[bool, bool], commands: list[str]) -> None:
    check = judged(*differing(0, 0, 300), kept=kept)
    assert check.outcome == "inconclusive"
    assert [command for command in commands if f"`{command}`" not in check.reason] == []


def test_other_images_are_not_compared() -> None:
    ours, theirs = answers([True] * 10), answers([True] * 20)[10:]
    assert compare("accuracy", None, ours, theirs, CompareOptions(0.02)) is None


@pytest.mark.parametrize("metric", sorted(EVENTS))
def test_only_images_of_its_kind_and_target_count(metric: str) -> None:
    kind = EVENTS[metric].kind
    newer = [*answers([False] * 4 + [True] * 6, kind), *answers([False] * 10, kind, target="mid")]
    older = [*answers([True] * 10, kind), *answers([True] * 10, kind, target="mid")]
    found = compare(metric, "low", newer, older, CompareOptions(0.02))
    assert found is not None
    assert found.n == 10
    assert found.value == (0.0 if metric.startswith("crop_routing") else -0.4)


def test_images_about_which_one_says_nothing_are_left_out() -> None:
    unscored = [one.model_copy(update={"is_ood": None}) for one in answers([True] * 5, "far")]
    pairs = list(zip([*unscored, *answers([True] * 5, "far")], answers([False] * 10, "far"), strict=True))
    assert count_pairs(EVENTS["ood_detection_rate"], pairs) == PairedCounts(5, 0, 5)


def test_more_false_alarms_count_against_a_version() -> None:
    fewer, more = answers([False] * 300), answers([True] * 12 + [False] * 288)
    worse = compare("ood_false_alarm_rate", "low", more, fewer, CompareOptions(0.02, wants_more=False))
    better = compare("ood_false_alarm_rate", "low", fewer, more, CompareOptions(0.02, wants_more=False))
    assert worse is not None
    assert better is not None
    assert (worse.value, better.value) == (0.04, -0.04)
    assert worse.end > 0.04
    assert better.end < 0


def test_areas_are_compared_on_the_scores_of_the_same_images() -> None:
    inside, outside = answers([False] * 50), answers([True] * 50, "far")
    found = compare("ood_auroc", "low", [*inside, *outside], [*inside, *outside], CompareOptions(0.02))
    assert found is not None
    assert (found.value, found.n) == (0.0, 50)
    assert found.end < 0
    assert compare("ood_auroc", "low", inside, inside, CompareOptions(0.02)) is None


def test_a_line_shows_the_end_on_the_side_that_counts() -> None:
    check = judged(*differing(4, 6, 300))
    verdict = judge(policy_of("metric: accuracy"), GateInputs("staging", candidate(), []), timestamp=NOW, who="tester")
    (line,) = check_lines(verdict.model_copy(update={"checks": (check,)}))
    assert f"95% sure of >= {number(check.end or 0.0)}, n=300, needs {check.wanted_n}" in line


def test_an_area_that_must_not_grow_is_bounded_above() -> None:
    inside, outside = answers([False] * 50), answers([True] * 50, "far")
    swapped = [*(one.model_copy(update={"ood_score": -1.0}) for one in outside[:5]), *outside[5:]]
    better, worse = [*inside, *outside], [*inside, *swapped]
    up = compare("ood_auroc", "low", better, worse, CompareOptions(0.02, wants_more=False))
    down = compare("ood_auroc", "low", worse, better, CompareOptions(0.02))
    assert up is not None
    assert down is not None
    assert (up.value, up.end) == (-down.value, -down.end)
    assert up.end > up.value > 0


@pytest.mark.parametrize("floor", ["metric: accuracy, max: 1.0", "metric: accuracy"])
def test_the_floor_beside_a_pair_is_on_its_side(floor: str) -> None:
    with pytest.raises(BadPolicy, match="no `min` beside it"):
        policy_of(RULE, floor)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("metric: accuracy, min: 0.9, judge: bound, confidence: 0.5", "greater than 0.5"),
        ("metric: accuracy, min: 0.9, judge: paired", "needs `max_decrease` or `max_increase`"),
        ("metric: latency_ms_p95, max_increase: 5, judge: paired", "`judge: paired` is for accuracy"),
        ("metric: accuracy, max_decrease: 0.1, judge: paired, per: mean", "per: target"),
        ("metric: ood_auroc, max_decrease: 0.1, judge: paired", "per: target"),
        ("metric: crop_routing_accuracy, max_decrease: 0.1, judge: paired", "no `min` beside it"),
    ],
)
def test_a_rule_that_can_not_be_paired_is_refused(rule: str, said: str) -> None:
    with pytest.raises(BadPolicy, match=said):
        policy_of(rule)

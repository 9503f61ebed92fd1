"""Verdicts as people read them: a check a line, failing ones first, and numbers with their intervals."""

from __future__ import annotations

import pytest

from registry.evidence.check_lines import check_lines, check_summary, metric_text
from registry.evidence.gates import GateInputs, Past, judge
from registry.evidence.policy import parse_policy
from registry.evidence.results import Evidence, Metric
from registry.evidence.verdict import Verdict
from tests.unit.evidence.samples import CONTENT, NOW, STABLE_CONTENT, candidate, evidence, stable


def lines(*rules: str, found: tuple[Evidence, ...], theirs: tuple[Evidence, ...] | None = None) -> list[list[str]]:
    """The cells of each line, under a policy of these rules."""
    judged = verdict(*rules, found=found, theirs=theirs)
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in check_lines(judged)]


def verdict(*rules: str, found: tuple[Evidence, ...], theirs: tuple[Evidence, ...] | None = None) -> Verdict:
    listed = ", ".join("{" + rule + "}" for rule in rules)
    text = f"format: 1\nchannels: {{staging: {{}}, production: {{defaults: [{listed}]}}}}"
    against = None if theirs is None else stable()
    inputs = GateInputs("production", candidate(), found, stable=against, stable_evidence=theirs or ())
    return judge(parse_policy(text.encode()), inputs, timestamp=NOW, who="tester")


def share(right: int, n: int, target: str) -> Metric:
    return Metric.proportion("accuracy", right, n, target=target)


MIXED = evidence("accuracy", share(990, 1000, "low"), share(40, 43, "mid"))
LATENCY = evidence("latency", Metric.of("latency_ms_p95", 212.34, n=60, low=200.0, high=220.0, unit="ms"))


def test_a_check_is_a_line_and_those_that_did_not_pass_are_first() -> None:
    assert lines(
        "metric: accuracy, min: 0.95, per: target, min_n: 100",
        "metric: latency_ms_p95, max: 200, why: answers must be in time",
        "metric: ood_auroc",
        found=(MIXED, LATENCY),
    ) == [
        ["latency_ms_p95", "212.3", "<= 200", "FAIL", "95% CI 200-220, n=60; answers must be in time"],
        ["ood_auroc", "-", "measured", "NOT MEASURED", "run `ulora measure v2.0.0 --only ood`"],
        ["accuracy (mid)", "0.930", ">= 0.95", "TOO FEW", "n=43, needs 100"],
        ["accuracy (low)", "0.990", ">= 0.95", "ok", "95% CI 0.982-0.995, n=1000"],
    ]


def test_what_one_measurement_would_answer_shares_a_line() -> None:
    assert lines(
        "metric: ood_auroc", "metric: ood_fpr95", "metric: ood_auroc, min: 0.9", "metric: accuracy, min: 0.9",
        found=(LATENCY,),
    ) == [
        ["ood_auroc and 1 more", "-", "3 checks", "NOT MEASURED", "run `ulora measure v2.0.0 --only ood`"],
        ["accuracy", "-", ">= 0.9", "NOT MEASURED", "run `ulora measure v2.0.0 --only accuracy`"],
    ]  # fmt: skip


def test_the_lines_can_be_those_that_did_not_pass_only() -> None:
    judged = verdict("metric: accuracy, min: 0.95, per: target, min_n: 100", found=(MIXED,))
    assert [line.split()[1] for line in check_lines(judged, refusals_only=True)] == ["(mid)"]
    assert check_summary(judged) == "1 of 2 checks does not pass"


@pytest.mark.parametrize(
    ("targets", "said"),
    [(("low", "mid"), "2 of 2 checks do not pass"), ((), "all 2 checks pass")],
)
def test_the_summary_counts_the_checks(targets: tuple[str, ...], said: str) -> None:
    shares = [share(1 if name in targets else 999, 1000, name) for name in ("low", "mid")]
    judged = verdict("metric: accuracy, min: 0.9, per: target", found=(evidence("accuracy", *shares),))
    assert check_summary(judged) == said


def test_a_policy_that_asks_nothing_says_so() -> None:
    judged = verdict(found=())
    assert (check_lines(judged), check_summary(judged)) == ([], "nothing is asked")


def test_a_value_that_rounds_to_its_bound_shows_more_digits() -> None:
    ((_, value, asked, status, _),) = lines(
        "metric: ood_auroc, min: 0.95", found=(evidence("ood", Metric.of("ood_auroc", 0.94996, n=9)),)
    )
    assert (value, asked, status) == ("0.94996", ">= 0.95", "FAIL")


def test_a_relative_check_shows_the_bound_or_what_to_measure() -> None:
    rule, mine = (
        "metric: adapter_memory_mb, max_increase: 5",
        evidence("memory", Metric.of("adapter_memory_mb", 30, n=3)),
    )
    theirs = evidence("memory", Metric.of("adapter_memory_mb", 20, n=3), content=STABLE_CONTENT)
    assert lines(rule, found=(mine,), theirs=(theirs,)) == [
        ["adapter_memory_mb", "30", "<= 25 (stable + 5)", "FAIL", "n=3"]
    ]
    ((_, _, asked, status, why),) = lines(rule, found=(mine,), theirs=())
    assert (asked, status) == ("<= stable + 5", "UNDECIDED")
    assert why.startswith("measure v1.0.0 first")


def test_a_first_release_is_compared_with_nothing() -> None:
    found = lines("metric: accuracy, max_decrease: 0.03, per: target", found=(MIXED,))
    assert {tuple(line[2:4]) for line in found} == {(">= stable - 0.03 (no stable)", "ok")}


def test_a_value_that_is_no_number_says_why() -> None:
    found = evidence("ood", Metric.of("ood_auroc", float("nan"), n=0))
    ((_, value, _, status, why),) = lines("metric: ood_auroc", found=(found,))
    assert (value, status) == ("-", "NO VALUE")
    assert why == "run `ulora measure v2.0.0 --only ood`"


def test_the_past_and_a_withdrawal_are_lines_too() -> None:
    policy = parse_policy(b"format: 1\nchannels: {staging: {}, production: {requires: staging}}")
    past = Past("staging", CONTENT, "f" * 64)
    inputs = GateInputs("production", candidate(), (), past=past, withdrawn=True)
    withdrawn, stable_before = check_lines(judge(policy, inputs, timestamp=NOW, who="tester"))
    assert withdrawn.split("  ")[0] == "withdrawn"
    assert "FAIL  v2.0.0 was rolled back in production" in withdrawn
    assert stable_before.endswith("ok    was stable in staging, record ffffffffffff")


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (Metric.of("accuracy", 0.849, low=0.756, high=0.91, n=34), "0.849 (95% CI 0.756-0.910, n=34)"),
        (Metric.of("latency_ms_p95", 123.456, n=60, unit="ms"), "123.5 ms (n=60)"),
        (Metric.of("depth_blocks", 5.25, n=60, unit="blocks"), "5.250 blocks (n=60)"),
        (Metric.of("energy_joules", 3.5, n=60, unit="J"), "3.500 J (n=60)"),
        (
            Metric.of("latency_ratio_p50", 1.02, low=1.0, high=1.04, n=600, unit="ratio"),
            "1.020 (95% CI 1.000-1.040, n=600)",
        ),
        (Metric.of("ood_auroc", None, n=0), "not a number (n=0)"),
    ],
)
def test_a_number_stands_with_its_interval_and_samples(metric: Metric, text: str) -> None:
    assert metric_text(metric) == text


@pytest.mark.parametrize(
    ("rule", "right", "asked", "sure", "needs"),
    [
        ("metric: accuracy, min: 0.93, judge: bound", 288, ">= 0.93", "95% sure of >= 0.937", ""),
        ("metric: accuracy, max: 0.07, judge: bound", 12, "<= 0.07", "95% sure of <= 0.063", ""),
        ("metric: accuracy, min: 0.95, judge: bound, min_n: 100", 288, ">= 0.95", "95% sure of >= 0.937", "1286"),
        ("metric: accuracy, min: 0.96, judge: bound, min_n: 100", 288, ">= 0.96", "95% sure of >= 0.937", "another"),
    ],
)
def test_how_sure_a_share_is_stands_beside_it(rule: str, right: int, asked: str, sure: str, needs: str) -> None:
    found = evidence("accuracy", Metric.proportion("accuracy", right, 300))
    ((_, _, shown, _, why),) = lines(rule, found=(found,))
    assert (shown, why.split(",")[0]) == (asked, sure)
    assert needs in why.partition("needs ")[2]


def test_an_area_needs_more_images_and_no_other_version() -> None:
    area = Metric.of("ood_auroc", 0.93, low=0.89, high=0.96, n=300, unit="area")
    judged = verdict("metric: ood_auroc, min: 0.9, judge: bound, min_n: 100", found=(evidence("ood", area),))
    assert judged.checks[0].wanted_n is None
    assert judged.checks[0].reason.endswith("not at least 0.9; more samples may decide")
    assert check_lines(judged)[0].endswith("95% sure of >= 0.890, n=300, needs more")

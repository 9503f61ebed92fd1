"""Gates: what passes, what fails, what is inconclusive, and the reasons that are given."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadManifest
from registry.evidence.candidate import Candidate
from registry.evidence.gates import GateInputs, Past, judge
from registry.evidence.metrics import benchmark_of
from registry.evidence.policy import Policy, load_policy, parse_policy
from registry.evidence.results import Evidence, Measurement, Metric
from registry.evidence.stats import wilson
from registry.evidence.verdict import Check, Verdict
from registry.formats import canonical
from tests.unit.evidence.samples import CONTENT, NOW, STABLE_CONTENT, TARGETS, candidate, evidence, stable

ORDER = ("fail", "inconclusive", "pass")


def policy_of(*rules: str) -> Policy:
    """A policy that asks for these rules in production, without a past."""
    listed = ", ".join("{" + rule + "}" for rule in rules)
    return parse_policy(f"format: 1\nchannels: {{staging: {{}}, production: {{defaults: [{listed}]}}}}".encode())


def verdict(
    policy: Policy,
    *found: Evidence,
    of: Candidate | None = None,
    past: Past | None = None,
    against: Candidate | None = None,
    theirs: tuple[Evidence, ...] = (),
) -> Verdict:
    inputs = GateInputs("production", of or candidate(), found, past=past, stable=against, stable_evidence=theirs)
    return judge(policy, inputs, timestamp=NOW, who="tester")


def only(judged: Verdict) -> Check:
    (check,) = judged.checks
    return check


def accuracy(low: int, mid: int, n: int = 1000) -> Evidence:
    return evidence(
        "accuracy",
        Metric.proportion("accuracy", low + mid, 2 * n),
        Metric.proportion("accuracy", low, n, target="low"),
        Metric.proportion("accuracy", mid, n, target="mid"),
    )


def latency(
    value: float, *, content: str = CONTENT, n: int = 60, device: str = "cpu", data: str = "e" * 64
) -> Evidence:
    metric = Metric.of("latency_ms_p95", value, n=n, unit="ms")
    return evidence("latency", metric, content=content, device=device, data=data)


def memory(value: float, *, content: str = CONTENT, data: str = "e" * 64) -> Evidence:
    return evidence("memory", Metric.of("adapter_memory_mb", value, n=2, unit="MB"), content=content, data=data)


def everything(fpr: float = 0.0, detected: int = 196, alarms: int = 12, near: float | None = 0.5) -> list[Evidence]:
    """Evidence on which the default policy passes, unless the false positives are too many.

    Args:
        fpr: of far images, at a threshold that is chosen for it.
        detected, alarms: how many of 200 far images and of 400 of the target's own the deployed threshold flags.
        near: the share of near images that it flags.
    """
    per_target = [
        metric
        for target in TARGETS
        for metric in (
            Metric.of("ood_auroc", 0.99, low=0.97, high=0.999, n=200, target=target, unit="area"),
            Metric.proportion("ood_fpr95", round(1000 * fpr), 1000, target=target),
            Metric.proportion("ood_detection_rate", detected, 200, target=target),
            Metric.proportion("ood_false_alarm_rate", alarms, 400, target=target),
            Metric.of("ood_near_detection_rate", near, n=100, target=target),
        )
    ]
    memory = [Metric.of("adapter_memory_mb", 2.0, n=1, target=target, unit="MB") for target in TARGETS]
    routing = Metric.proportion("crop_routing_accuracy", 990, 1000)
    return [
        accuracy(980, 970),
        evidence("routing", routing),
        evidence("ood", *per_target),
        latency(30.0),
        evidence("memory", *memory),
    ]


WAS_IN_STAGING = Past("staging", CONTENT, "f" * 64)


def test_a_version_from_staging_that_meets_every_rule_passes() -> None:
    judged = verdict(load_policy(), *everything(), past=WAS_IN_STAGING)
    assert [check.reason for check in judged.refusals] == []
    assert judged.outcome == "pass"
    assert judged.allows


def test_one_bad_metric_refuses_and_is_named() -> None:
    judged = verdict(load_policy(), *everything(fpr=0.2), past=WAS_IN_STAGING)
    assert judged.outcome == "fail"
    assert {(check.metric, check.target) for check in judged.refusals} == {("ood_fpr95", "low"), ("ood_fpr95", "mid")}
    assert "0.200, not at most 0.05" in judged.refusals[0].reason


@pytest.mark.parametrize(
    ("found", "metric", "outcome"),
    [
        (everything(fpr=0.007, detected=134), "ood_detection_rate", "fail"),
        (everything(alarms=25), "ood_false_alarm_rate", "fail"),
        (everything(near=None), "ood_near_detection_rate", "fail"),
    ],
)
def test_what_the_deployed_threshold_does_is_judged_too(found: list[Evidence], metric: str, outcome: str) -> None:
    judged = verdict(load_policy(), *found, past=WAS_IN_STAGING)
    assert judged.outcome == outcome
    assert {check.metric for check in judged.refusals} == {metric}


def test_near_detection_may_be_anything_that_was_measured() -> None:
    assert verdict(load_policy(), *everything(near=0.0), past=WAS_IN_STAGING).allows


def test_a_snapshot_is_judged_by_the_rules_of_its_flavor() -> None:
    snapshot = replace(candidate(targets=()), flavor="files")
    refused = verdict(load_policy(), of=snapshot, past=WAS_IN_STAGING).refusals
    assert all("a snapshot can't be measured" in check.reason for check in refused)
    text = "format: 1\nchannels: {staging: {}, production: {requires: staging, defaults: [{metric: accuracy}], %s}}"
    own = parse_policy((text % "by_flavor: {files: []}").encode())
    assert verdict(own, of=snapshot, past=WAS_IN_STAGING).outcome == "pass"
    assert verdict(own, of=snapshot).outcome == "fail", "a past in staging is asked of every flavor"
    assert verdict(own, of=candidate(), past=WAS_IN_STAGING).outcome == "fail"


def test_nothing_measured_fails_every_rule_and_names_benchmarks() -> None:
    judged = verdict(load_policy(), past=WAS_IN_STAGING)
    reasons = " ".join(check.reason for check in judged.refusals)
    assert judged.outcome == "fail"
    for benchmark in ("accuracy", "routing", "ood", "latency", "memory"):
        assert f"run `ulora measure v2.0.0 --only {benchmark}" in reasons


@pytest.mark.parametrize(
    ("past", "said"),
    [
        (None, "never stable in staging"),
        (Past("staging", STABLE_CONTENT, "f" * 64), "other content"),
        (Past("staging", CONTENT, "f" * 64, withdrawn=True), "withdrawn from staging"),
        (Past("drill-x", CONTENT, "f" * 64), "never stable in staging"),
    ],
)
def test_production_refuses_a_version_without_a_sound_past(past: Past | None, said: str) -> None:
    judged = verdict(load_policy(), *everything(), past=past)
    (refusal,) = judged.refusals
    assert (judged.outcome, refusal.metric) == ("fail", "past")
    assert said in refusal.reason


def test_a_weak_target_does_not_hide_behind_a_strong_one() -> None:
    found = accuracy(1000, 900)
    each = verdict(policy_of("metric: accuracy, min: 0.95, per: target"), found)
    assert [(check.target, check.outcome) for check in each.checks] == [("low", "pass"), ("mid", "fail")]
    assert only(verdict(policy_of("metric: accuracy, min: 0.95, per: all"), found)).outcome == "pass"
    assert only(verdict(policy_of("metric: accuracy, min: 0.95, per: mean"), found)).outcome == "pass"


def test_the_worst_target_is_chosen_by_the_kind_of_bound() -> None:
    found = accuracy(1000, 900)
    lowest = only(verdict(policy_of("metric: accuracy, min: 0.95, per: worst"), found))
    highest = only(verdict(policy_of("metric: accuracy, max: 0.95, per: worst"), found))
    assert (lowest.target, lowest.observed, lowest.outcome) == ("mid", 0.9, "fail")
    assert (highest.target, highest.observed, highest.outcome) == ("low", 1.0, "fail")


def test_a_mean_is_over_targets_not_over_images() -> None:
    found = evidence(
        "accuracy",
        Metric.proportion("accuracy", 10, 10, target="low"),
        Metric.proportion("accuracy", 500, 1000, target="mid"),
    )
    check = only(verdict(policy_of("metric: accuracy, min: 0.7, per: mean"), found))
    assert (check.observed, check.n, check.outcome) == (0.75, 1010, "pass")


@pytest.mark.parametrize("per", ["target", "worst", "mean"])
def test_a_target_that_was_not_measured_fails_by_name(per: str) -> None:
    found = evidence("accuracy", Metric.proportion("accuracy", 100, 100, target="low"))
    judged = verdict(policy_of(f"metric: accuracy, min: 0.95, per: {per}"), found)
    (refusal,) = judged.refusals
    assert (refusal.target, refusal.outcome) == ("mid", "fail")
    assert "accuracy of mid was not measured" in refusal.reason


@pytest.mark.parametrize(
    "rule", ["metric: accuracy", "metric: accuracy, min: 0.1", "metric: accuracy, max_decrease: 1"]
)
def test_a_metric_that_is_no_number_fails_by_name(rule: str) -> None:
    check = only(verdict(policy_of(rule), evidence("accuracy", Metric.of("accuracy", float("nan"), n=9))))
    assert check.outcome == "fail"
    assert "accuracy is not a number" in check.reason


def test_the_cause_of_a_missing_number_comes_from_the_notes() -> None:
    metrics = (Metric.of("ood_auroc", None, n=0),)
    found = evidence(
        "ood", measurement=Measurement(metrics, "a" * 64, "digits", 7, notes={"ood_auroc": "no far images"})
    )
    check = only(verdict(policy_of("metric: ood_auroc, min: 0.9"), found))
    assert "ood_auroc is not a number: no far images, then run `ulora measure v2.0.0 --only ood`" in check.reason


def test_a_rule_without_a_bound_asks_only_for_a_number() -> None:
    assert only(verdict(policy_of("metric: accuracy"), accuracy(1, 1))).outcome == "pass"
    assert only(verdict(policy_of("metric: accuracy"))).outcome == "fail"


def test_too_few_samples_are_inconclusive_and_name_the_needed_n() -> None:
    few = evidence("accuracy", Metric.proportion("accuracy", 49, 50))
    check = only(verdict(policy_of("metric: accuracy, min: 0.95, min_n: 100"), few))
    assert check.outcome == "inconclusive"
    assert "only 50 samples" in check.reason
    assert "asks for 100, and 203 would decide" in check.reason


def test_few_samples_that_already_decide_against_it_fail() -> None:
    few = evidence("accuracy", Metric.proportion("accuracy", 5, 50))
    check = only(verdict(policy_of("metric: accuracy, min: 0.95, min_n: 100"), few))
    assert check.outcome == "fail"


def test_a_pass_by_less_than_its_interval_says_so() -> None:
    check = only(verdict(policy_of("metric: accuracy, min: 0.95"), accuracy(955, 955)))
    assert check.outcome == "pass"
    assert "its interval reaches 0.94" in check.reason


def test_a_value_whose_interval_misses_the_bound_is_inconclusive() -> None:
    asked = policy_of("metric: accuracy, min: 0.95, judge: bound")
    check = only(verdict(asked, evidence("accuracy", Metric.proportion("accuracy", 193, 200))))
    assert (check.outcome, check.bound) == ("inconclusive", 0.95)
    assert check.end == pytest.approx(wilson(193, 200, 0.9).low)
    assert check.wanted_n is not None
    enough = Metric.proportion("accuracy", round(0.965 * check.wanted_n + 0.5), check.wanted_n)
    assert verdict(asked, evidence("accuracy", enough)).outcome == "pass"
    assert "0.965 on 200 samples: with 95% confidence only 0.937, not at least 0.95; 572 samples" in check.reason


def test_a_value_that_misses_the_bound_fails() -> None:
    asked = policy_of("metric: accuracy, min: 0.95, judge: bound")
    assert verdict(asked, evidence("accuracy", Metric.proportion("accuracy", 47, 50))).outcome == "fail"


def test_an_interval_of_another_kind_is_taken_as_it_was_kept() -> None:
    found = evidence("ood", Metric.of("ood_auroc", 0.95, low=0.91, high=0.97, n=300, unit="area"))
    asked = [policy_of(f"metric: ood_auroc, min: {bound}, judge: bound") for bound in (0.90, 0.93)]
    assert [verdict(each, found).outcome for each in asked] == ["pass", "inconclusive"]
    surer = policy_of("metric: ood_auroc, min: 0.90, judge: bound, confidence: 0.99")
    assert "an interval of less confidence only" in only(verdict(surer, found)).reason
    assert only(verdict(surer, found)).outcome == "inconclusive"


def test_a_value_without_an_interval_has_no_bound_to_judge() -> None:
    check = only(verdict(policy_of("metric: latency_ms_p95, max: 200, judge: bound"), latency(150.0)))
    assert (check.outcome, check.end) == ("inconclusive", None)
    assert "no interval" in check.reason


def test_the_device_and_runtime_of_a_rule_choose_the_evidence() -> None:
    rule = policy_of("metric: latency_ms_p95, max: 100, device: cpu, runtime: torch-fp32")
    assert only(verdict(rule, latency(50), latency(500, device="cuda:0"))).outcome == "pass"
    missing = only(verdict(rule, latency(50, device="cuda:0")))
    assert missing.outcome == "fail"
    assert (
        "not measured on cpu with torch-fp32: run `ulora measure v2.0.0 --only latency --device cpu "
        "--runtime torch-fp32`" in missing.reason
    )


def test_evidence_of_other_content_never_counts() -> None:
    check = only(verdict(policy_of("metric: latency_ms_p95, max: 100"), latency(5, content=STABLE_CONTENT)))
    assert check.outcome == "fail"
    assert "was not measured" in check.reason


def test_the_newest_evidence_counts_in_whatever_order_it_comes() -> None:
    old = evidence("latency", Metric.of("latency_ms_p95", 5.0, n=60), timestamp="2026-11-01T00:00:00Z")
    new = evidence("latency", Metric.of("latency_ms_p95", 500.0, n=60), timestamp="2026-11-02T00:00:00Z")
    rule = policy_of("metric: latency_ms_p95, max: 100")
    for found in ((old, new), (new, old)):
        check = only(verdict(rule, *found))
        assert (check.outcome, check.evidence) == ("fail", new.sha256)


LARGER = "metric: adapter_memory_mb, max_increase: 5"


@pytest.mark.parametrize(("value", "outcome"), [(20, "pass"), (35, "pass"), (35.1, "fail")])
def test_a_relative_rule_compares_with_stable(value: float, outcome: str) -> None:
    theirs = memory(30, content=STABLE_CONTENT)
    check = only(verdict(policy_of(LARGER), memory(value), against=stable(), theirs=(theirs,)))
    assert (check.outcome, check.bound, check.stable_evidence) == (outcome, 35, theirs.sha256)
    assert "stable v1.0.0 has 30" in check.reason


def test_a_relative_rule_without_stable_passes_with_a_note() -> None:
    check = only(verdict(policy_of(LARGER), memory(20)))
    assert check.outcome == "pass"
    assert "no stable version" in check.reason


def test_a_stable_that_was_not_measured_is_inconclusive() -> None:
    check = only(verdict(policy_of(LARGER), memory(20), against=stable()))
    assert check.outcome == "inconclusive"
    assert "measure v1.0.0 first" in check.reason
    assert "`ulora measure v1.0.0 --only memory`" in check.reason


def test_a_stable_measured_on_other_data_is_inconclusive() -> None:
    theirs = memory(30, content=STABLE_CONTENT, data="9" * 64)
    check = only(verdict(policy_of(LARGER), memory(20), against=stable(), theirs=(theirs,)))
    assert check.outcome == "inconclusive"


def test_a_target_that_stable_lacks_passes_with_a_note() -> None:
    rule = policy_of("metric: accuracy, max_decrease: 0.01, per: target")
    theirs = evidence("accuracy", Metric.proportion("accuracy", 90, 100, target="low"), content=STABLE_CONTENT)
    judged = verdict(rule, accuracy(880, 100), against=stable(("low",)), theirs=(theirs,))
    assert [(check.target, check.outcome) for check in judged.checks] == [("low", "fail"), ("mid", "pass")]
    assert "has no target mid" in judged.checks[1].reason


def test_the_worst_target_is_compared_with_the_worst_of_stable() -> None:
    rule = policy_of("metric: accuracy, max_decrease: 0.01, per: worst")
    theirs = evidence(
        "accuracy",
        Metric.proportion("accuracy", 900, 1000, target="low"),
        Metric.proportion("accuracy", 990, 1000, target="old"),
        content=STABLE_CONTENT,
    )
    check = only(verdict(rule, accuracy(950, 895), against=stable(("low", "old")), theirs=(theirs,)))
    assert (check.target, check.bound, check.outcome) == ("mid", pytest.approx(0.89), "pass")


@given(st.integers(95, 100), st.floats(0.6, 0.99))
def test_ends_are_rounded_so_that_they_are_equal_everywhere(right: int, confidence: float) -> None:
    """Mathematical libraries differ in the last digits of a double."""
    asked = policy_of(f"metric: accuracy, min: 0.5, judge: bound, confidence: {confidence}")
    found = evidence("accuracy", Metric.proportion("accuracy", right, 100))
    end = only(verdict(asked, found)).end
    assert end is not None
    assert end == float(f"{end:.12g}")
    exact = wilson(right, 100, 2 * confidence - 1).low
    assert end == pytest.approx(exact, rel=1e-11)


def test_a_failure_outweighs_the_inconclusive() -> None:
    judged = verdict(
        policy_of("metric: accuracy, min: 0.99, min_n: 5000", LARGER, "metric: macro_f1"),
        accuracy(990, 990),
        memory(1),
    )
    assert [check.outcome for check in judged.checks] == ["inconclusive", "pass", "fail"]
    assert (judged.outcome, [check.outcome for check in judged.refusals]) == ("fail", ["fail", "inconclusive"])


def test_a_policy_without_rules_passes() -> None:
    assert verdict(policy_of()).outcome == "pass"


def test_a_forced_verdict_keeps_its_outcome_and_the_reason() -> None:
    forced = verdict(load_policy()).force("the drill")
    assert (forced.outcome, forced.forced, forced.allows) == ("fail", "the drill", True)
    assert json.loads(forced.to_bytes())["forced"] == "the drill"


def test_a_verdict_reads_back_as_the_same_bytes() -> None:
    judged = verdict(load_policy(), *everything(fpr=0.2), past=WAS_IN_STAGING, against=stable())
    read = Verdict.parse(judged.to_bytes(), "verdict")
    assert (read.to_bytes(), read.outcome, read.sha256) == (
        judged.to_bytes(),
        "fail",
        canonical.sha256(judged.to_bytes()),
    )


def test_the_same_inputs_give_the_same_verdict() -> None:
    first, again = (verdict(load_policy(), *order, past=WAS_IN_STAGING) for order in (everything(), everything()[::-1]))
    assert first.sha256 == again.sha256


@given(st.binary(max_size=200))
def test_junk_is_no_verdict(junk: bytes) -> None:
    with pytest.raises(BadManifest):
        Verdict.parse(junk, "verdict")


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_a_better_proportion_never_comes_out_worse(drawn: tuple[int, int, int]) -> None:
    n, one, other = drawn
    worse, better = sorted((one, other))
    asked = policy_of("metric: accuracy, min: 0.9, min_n: 100")

    def rank(successes: int) -> int:
        outcome = verdict(asked, evidence("accuracy", Metric.proportion("accuracy", successes, n))).outcome
        return ORDER.index(outcome)

    assert rank(worse) <= rank(better)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_lower_size_never_comes_out_worse(one: float, other: float, base: float) -> None:
    smaller, larger = sorted((one, other))
    asked = policy_of("metric: adapter_memory_mb, max: 150", LARGER)

    def rank(value: float) -> int:
        theirs = (memory(base, content=STABLE_CONTENT),)
        return ORDER.index(verdict(asked, memory(value), against=stable(), theirs=theirs).outcome)

    assert rank(larger) <= rank(smaller)


@pytest.mark.parametrize(
    ("metric", "benchmark"),
    [("ood_fpr95", "ood"), ("latency_ms_p99", "latency"), ("crop_routing_accuracy", "routing"), ("energy", "energy")],
)
def test_the_benchmark_of_a_metric_is_known(metric: str, benchmark: str) -> None:
    assert benchmark_of(metric) == benchmark

"""Rules on times: ratios count against stable only, absolute times on the machine that the rule names."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import BadPolicy
from registry.evidence.candidate import Candidate
from registry.evidence.check_lines import check_lines
from registry.evidence.gates import GateInputs, judge
from registry.evidence.looks import ratio_end
from registry.evidence.policy import Policy, parse_policy
from registry.evidence.results import ComparedVersion, Evidence, Measurement, Metric
from registry.evidence.rule import Rule
from registry.evidence.verdict import Check, Verdict
from registry.machine.hardware import Machine
from tests.unit.evidence.samples import DATA, NOW, STABLE_CONTENT, STABLE_MANIFEST, candidate, evidence, stable

SLOWER = "metric: latency_ratio_p95, max: 1.10, judge: bound"
ON_TWO_THREADS = "metric: latency_ms_p95, max: 100, machine: {cpu: Xeon, threads: 2}"
XEON = Machine(cpu="Xeon", cores=8, quota=4.0, load=0.5, threads=2)


def policy_of(rule: str) -> Policy:
    return parse_policy(f"format: 1\nchannels: {{staging: {{}}, production: {{defaults: [{{{rule}}}]}}}}".encode())


def judged(rule: str, *found: Evidence, against: Candidate | None = None) -> Verdict:
    inputs = GateInputs("production", candidate(), found, stable=against)
    return judge(policy_of(rule), inputs, timestamp=NOW, who="tester")


def check_of(rule: str, *found: Evidence, against: Candidate | None = None) -> Check:
    (check,) = judged(rule, *found, against=against).checks
    return check


def ratio(
    value: float,
    high: float,
    *,
    of: str = "v1.0.0",
    manifest: str = STABLE_MANIFEST,
    day: int = 1,
    n: int = 600,
    machine: Machine | None = None,
    **more: float | None,
) -> Evidence:
    low = more.get("low", value - 0.05)
    metric = Metric.of("latency_ratio_p95", value, n=n, low=low, high=high, unit="ratio")
    freedom = more.get("freedom", 46.0)
    metric = metric if freedom is None else metric.model_copy(update={"freedom": freedom})
    named = ComparedVersion(version=of, manifest_sha256=manifest)
    found = Measurement((metric,), DATA, "digits, test", 100, machine=machine)
    return evidence("latency", measurement=found, against=named, timestamp=f"2026-11-{day:02}T10:00:00Z")


def latency(value: float, machine: Machine | None, day: int = 1) -> Evidence:
    metrics = (Metric.of("latency_ms_p95", value, n=300, unit="ms"),)
    found = Measurement(metrics, DATA, "digits, test", 100, machine=machine)
    return evidence("latency", measurement=found, timestamp=f"2026-11-{day:02}T10:00:00Z")


@pytest.mark.parametrize(
    ("value", "high", "outcome"), [(1.0, 1.08, "pass"), (1.05, 1.2, "inconclusive"), (1.2, 1.3, "fail")]
)
def test_a_ratio_to_stable_is_judged_by_its_end(value: float, high: float, outcome: str) -> None:
    found = ratio(value, high)
    check = check_of(SLOWER, found, against=stable())
    assert (check.outcome, check.bound, check.evidence) == (outcome, 1.1, found.sha256)


@pytest.mark.parametrize("found", [(), (ratio(0.5, 0.6, of="v0.9.0", manifest="a" * 64),)], ids=["none", "another"])
def test_a_ratio_to_another_version_is_inconclusive(found: tuple[Evidence, ...]) -> None:
    check = check_of(SLOWER, *found, against=stable())
    assert (check.outcome, check.observed, check.bound) == ("inconclusive", None, None)
    assert "run `ulora measure v2.0.0 --only latency --against v1.0.0`" in check.reason
    assert ("only against v0.9.0" in check.reason) == bool(found)


def test_a_later_ratio_to_another_version_takes_nothing_away() -> None:
    found = ratio(1.0, 1.05), ratio(3.0, 4.0, of="v0.9.0", manifest="a" * 64, day=2), latency(9.0, XEON, day=3)
    assert check_of(SLOWER, *found, against=stable()).outcome == "pass"


@pytest.mark.parametrize("day", [1, 2, 9], ids=["first", "between", "last"])
def test_a_ratio_that_is_surely_worse_refuses_for_good(day: int) -> None:
    bad, good = ratio(1.3, 1.4, day=day), [ratio(1.0, 1.05, day=each) for each in (3, 4, 5)]
    check = check_of(SLOWER, *good, bad, against=stable())
    assert (check.outcome, check.observed, check.evidence, check.measurements) == ("fail", 1.3, bad.sha256, 4)
    look = {1: 1, 2: 1, 9: 4}[day]
    assert f"1.300, not at most 1.1 with 97.5% confidence (1.250); it is measurement {look} of 4" in check.reason
    for said in ("against v1.0.0", "measuring again can't undo it", "`--force --reason …`"):
        assert said in check.reason


def test_an_undecided_ratio_passes_by_a_longer_measurement() -> None:
    short, long = ratio(1.05, 1.2, n=300), ratio(1.0, 1.05, n=1200, day=2)
    check = check_of(f"{SLOWER}, device: cpu", short, against=stable())
    assert (check.outcome, check.look, check.measurements, check.wanted_n) == ("inconclusive", 1, 1, 3300)
    assert check.reason.endswith(
        "with 97.5% confidence only 1.200, not at most 1.1; measure again: `ulora measure v2.0.0 --only latency "
        "--device cpu --against v1.0.0 --rounds 3300` would decide at this value, judged with 98.75% confidence"
    )
    check = check_of(SLOWER, short, long, against=stable())
    assert (check.outcome, check.evidence, check.look, check.measurements) == ("pass", long.sha256, 2, 2)
    assert (check.end or 0) > 1.05, "judged with more confidence"
    assert check.confidence == pytest.approx(0.9875)
    (line,) = check_lines(judged(SLOWER, short, long, against=stable()))
    assert line.endswith("98.75% sure of <= 1.058, n=1200, measurement 2 of 2")
    (line,) = check_lines(judged(SLOWER, short, against=stable()))
    assert line.endswith("97.5% sure of <= 1.200, n=300, needs 3300")


def test_each_measurement_asks_for_more_than_the_one_before() -> None:
    """What just passes as the first does not as the second, and the other way round the first one stays."""
    close, wide = ratio(1.0, 1.099, day=2), [ratio(1.0, 1.3, day=day) for day in (1, 3)]
    assert check_of(SLOWER, close, against=stable()).outcome == "pass"
    assert check_of(SLOWER, close, wide[1], against=stable()).look == 1
    assert check_of(SLOWER, close, wide[0], against=stable()).outcome == "inconclusive"


def test_one_time_of_creation_is_ordered_by_digest() -> None:
    found = sorted((ratio(1.0, 1.099), ratio(1.01, 1.3)), key=lambda one: one.sha256)
    first = next(number for number, one in enumerate(found, 1) if one.metrics[0].high == 1.099)
    for order in (found, found[::-1]):
        assert check_of(SLOWER, *order, against=stable()).outcome == ("pass" if first == 1 else "inconclusive")


def test_a_ratio_beyond_the_bound_may_be_chance() -> None:
    check = check_of(SLOWER, ratio(1.14, 1.2), against=stable())
    assert (check.outcome, check.wanted_n) == ("inconclusive", None)
    assert "--rounds 1200` may decide, judged with 98.75% confidence" in check.reason


def test_evidence_of_one_level_counts_as_the_first_only() -> None:
    early, late = (ratio(1.0, 1.05, freedom=None, day=day) for day in (1, 2))
    assert check_of(SLOWER, early, late, against=stable()).look == 1
    wide = ratio(1.0, 1.3, day=1)
    check = check_of(SLOWER, wide, late, against=stable())
    assert (check.outcome, check.measurements) == ("inconclusive", 2)
    assert check_of(f"{SLOWER}, confidence: 0.99", early, against=stable()).outcome == "inconclusive"
    assert check_of(f"{SLOWER}, confidence: 0.8", early, against=stable()).outcome == "pass"


def test_after_ten_measurements_no_more_can_pass() -> None:
    found = [ratio(1.0, 1.3, day=day) for day in range(1, 11)]
    check = check_of(SLOWER, *found, ratio(1.0, 1.0001, day=12), against=stable())
    assert (check.outcome, check.measurements) == ("inconclusive", 11)
    assert "no more than 10 measurements can let it pass: promote with `--force --reason …`" in check.reason
    assert check_of(SLOWER, *found, ratio(1.3, 1.4, day=12), against=stable()).outcome == "fail"


def test_a_value_is_asked_of_every_measurement() -> None:
    rule = "metric: latency_ratio_p95, max: 1.1"
    found = [ratio(value, 1.5, day=day) for day, value in enumerate((1.0, 1.05, 1.02), 1)]
    check = check_of(rule, *found, against=stable())
    assert (check.outcome, check.observed, check.measurements, check.look) == ("pass", 1.05, 3, None)
    check = check_of(rule, *found, ratio(1.11, 1.2, day=5), against=stable())
    assert (check.outcome, "worst of 4 measurements" in check.reason) == ("fail", True)
    assert "measuring again can't undo it" in check.reason


@pytest.mark.acceptance
def test_ten_tries_do_not_make_a_slow_version_pass() -> None:
    """A version at the bound, whose interval is of the known spread; it is given up only after the tenth."""
    draws, passed, versions = random.Random(0), 0, 200
    for _ in range(versions):
        values = [1.1 * math.exp(0.02 * draws.gauss()) for _ in range(10)]
        found = [
            ratio(value, value * math.exp(0.02 * 1.96), low=value * math.exp(-0.02 * 1.96), day=day, freedom=1e4)
            for day, value in enumerate(values, 1)
        ]
        passed += any(check_of(SLOWER, *found[:tries], against=stable()).outcome == "pass" for tries in range(1, 11))
    assert passed / versions <= 0.05 + 3 * (0.05 * 0.95 / versions) ** 0.5


@settings(max_examples=30)
@given(st.floats(0.8, 1.2), st.floats(1.001, 1.5), st.floats(1, 500), st.floats(0.51, 0.999))
def test_ends_of_later_measurements_are_farther(value: float, wide: float, freedom: float, sure: float) -> None:
    rule = Rule(metric="latency_ratio_p95", max=1.1, judge="bound", confidence=sure)
    metric = ratio(value, value * wide, freedom=freedom).metrics[0]
    ends = [ratio_end(rule, metric, look) or math.inf for look in range(1, 11)]
    assert ends == sorted(ends)
    assert ends[0] >= value


@pytest.mark.parametrize(("high", "freedom"), [(1.5, 1.0), (1e300, 3.0)])
def test_an_end_beyond_the_largest_number_is_inconclusive(high: float, freedom: float) -> None:
    found = [ratio(1.0, high, day=day, freedom=freedom) for day in range(1, 11)]
    check = check_of(f"{SLOWER}, confidence: 0.995", *found, against=stable())
    assert (check.outcome, "an interval that does not tell" in check.reason) == ("inconclusive", True)


def test_a_short_measurement_counts_only_alone() -> None:
    rule = f"{SLOWER}, min_n: 300"
    short, long = ratio(1.5, 1.9, n=50), ratio(1.0, 1.05, day=2)
    check = check_of(rule, short, against=stable())
    assert (check.outcome, check.measurements) == ("fail", 1)
    assert check_of(rule, ratio(1.0, 1.05, n=50), against=stable()).outcome == "inconclusive"
    assert "measuring again" not in check.reason
    check = check_of(rule, short, long, against=stable())
    assert (check.outcome, check.evidence, check.measurements) == ("pass", long.sha256, 1)


def test_only_measurements_on_the_machine_of_the_rule_count() -> None:
    rule = f"{SLOWER}, machine: {{threads: 2}}"
    elsewhere = ratio(1.5, 1.6, machine=XEON.model_copy(update={"threads": 8}))
    check = check_of(rule, elsewhere, ratio(1.0, 1.05, day=2, machine=XEON), against=stable())
    assert (check.outcome, check.measurements) == ("pass", 1)
    check = check_of(rule, elsewhere, against=stable())
    assert (check.outcome, "--only latency --against v1.0.0` there" in check.reason) == ("inconclusive", True)


@pytest.mark.parametrize(
    ("metric", "bound", "instead"),
    [
        ("latency_ms_p95", "max_increase", "latency_ratio_p95"),
        ("latency_ms_mean", "max_increase", "latency_ratio_p50"),
        ("throughput_fps", "max_decrease", "latency_ratio_p50"),
    ],
)
def test_times_of_two_runs_decide_nothing(metric: str, bound: str, instead: str) -> None:
    ours = evidence("latency", Metric.of(metric, 20, n=300))
    theirs = evidence("latency", Metric.of(metric, 20, n=300), content=STABLE_CONTENT)
    inputs = GateInputs("production", candidate(), [ours], stable=stable(), stable_evidence=[theirs])
    policy = policy_of(f"metric: {metric}, {bound}: 1000, device: cpu")
    (check,) = judge(policy, inputs, timestamp=NOW, who="tester").checks
    assert (check.outcome, check.observed, check.bound) == ("inconclusive", 20, None)
    assert f"ask for `{instead}`" in check.reason
    assert "`ulora measure v2.0.0 --only latency --device cpu --against v1.0.0`" in check.reason
    assert judge(policy, replace(inputs, stable=None), timestamp=NOW, who="tester").outcome == "pass"


EARLIER = """
format: 1
channels:
  staging: {}
  production:
    defaults:
      - {metric: latency_ratio_p95, max: 1.1, judge: bound}
      - {metric: latency_ratio_p50, max: 1.1, judge: bound, min_n: 50}
      - {metric: latency_ms_p95, max_increase: 5}
      - {metric: latency_ratio_p95, max: 2, machine: {threads: 2}}
"""


def test_a_verdict_of_the_first_meaning_keeps_its_bytes() -> None:
    def measured(day: int, p95: float, p50: float, ms: float) -> Evidence:
        ratios = [
            Metric.of(f"latency_ratio_{name}", value, n=600, low=value - 0.05, high=value + 0.05, unit="ratio")
            for name, value in (("p95", p95), ("p50", p50))
        ]
        named = ComparedVersion(version="v1.0.0", manifest_sha256=STABLE_MANIFEST)
        time = Metric.of("latency_ms_p95", ms, n=300, unit="ms")
        return evidence("latency", *ratios, time, against=named, timestamp=f"2026-11-{day:02}T10:00:00Z")

    found = [measured(1, 1.5, 1.0, 40.0), measured(2, 1.0, 1.08, 30.0)]
    theirs = [evidence("latency", Metric.of("latency_ms_p95", 28.0, n=300, unit="ms"), content=STABLE_CONTENT)]
    inputs = GateInputs("production", candidate(), found, stable=stable(), stable_evidence=theirs)
    policy = parse_policy(EARLIER.encode())
    earlier = judge(policy, inputs, timestamp=NOW, who="tester", meaning=1)
    assert [check.outcome for check in earlier.checks] == ["pass", "inconclusive", "pass", "inconclusive"]
    assert earlier.checks[1].end == 1.08 + 0.05
    assert earlier.sha256 == "872112e102918a0a59d96b68e7d36ce50a9cab8ee7fed667ac058a2a0bea0fb5"
    now = judge(policy, inputs, timestamp=NOW, who="tester")
    assert [check.outcome for check in now.checks] == ["fail", "pass", "inconclusive", "inconclusive"]
    assert (now.checks[1].look, now.checks[1].end) == (1, 1.05)


def test_the_same_name_with_another_manifest_is_another_version() -> None:
    changed = replace(stable(), manifest_sha256="9" * 64)
    assert check_of(SLOWER, ratio(1.0, 1.05), against=changed).outcome == "inconclusive"
    unreadable = replace(stable(), manifest_sha256="")
    assert check_of(SLOWER, ratio(1.0, 1.05), against=unreadable).outcome == "inconclusive"


def test_a_ratio_without_a_stable_version_passes_with_a_note() -> None:
    check = check_of(SLOWER)
    assert (check.outcome, check.reason) == ("pass", "there is no stable version to compare with")


def test_what_can_not_be_read_matters_to_ratios_to_stable_only() -> None:
    def outcome(rule: str, found: Evidence, against: Candidate | None) -> str:
        inputs = GateInputs("production", candidate(), [found], stable=against, unread=["models/x/evidence/v/1.json"])
        return judge(policy_of(rule), inputs, timestamp=NOW, who="tester").outcome

    assert outcome(SLOWER, ratio(1.0, 1.05), stable()) == "inconclusive"
    assert outcome(SLOWER, ratio(1.2, 1.3), stable()) == "fail"
    assert outcome(SLOWER, ratio(1.0, 1.05), None) == "pass"
    assert outcome(ON_TWO_THREADS, latency(50, XEON), stable()) == "pass"


def test_a_time_counts_on_the_machine_of_the_rule() -> None:
    assert check_of(ON_TWO_THREADS, latency(50, XEON)).outcome == "pass"
    assert check_of(ON_TWO_THREADS, latency(150, XEON)).outcome == "fail"
    other = XEON.model_copy(update={"threads": 8})
    assert check_of(ON_TWO_THREADS, latency(50, XEON), latency(150, other, day=2)).outcome == "pass"


@pytest.mark.parametrize(
    ("machine", "told"),
    [(XEON.model_copy(update={"cpu": "EPYC"}), "EPYC, 8 cores, quota 4, 2 threads, load 0.5"), (None, "not known")],
    ids=["another", "unknown"],
)
def test_a_time_of_another_machine_is_inconclusive(machine: Machine | None, told: str) -> None:
    check = check_of(ON_TWO_THREADS, latency(50, machine))
    assert (check.outcome, check.observed, check.bound) == ("inconclusive", 50, None)
    assert told in check.reason
    assert "the rule is for Xeon, 2 threads: run `ulora measure v2.0.0 --only latency` there" in check.reason


def test_a_target_measured_nowhere_is_told_so() -> None:
    """Also where others were measured on another machine than the rule's."""
    metric = Metric.of("latency_ms_p95", 50, n=300, unit="ms", target="low")
    machine = XEON.model_copy(update={"cpu": "EPYC"})
    found = evidence("latency", measurement=Measurement((metric,), DATA, "digits, test", 100, machine=machine))
    inputs = GateInputs("production", candidate(), (found,), stable=None)
    low, mid = judge(policy_of(f"{ON_TWO_THREADS}, per: target"), inputs, timestamp=NOW, who="tester").checks
    assert (low.outcome, low.observed, mid.outcome, mid.observed) == ("inconclusive", 50, "fail", None)
    assert "latency_ms_p95 of low was measured on EPYC" in low.reason
    assert mid.reason.startswith("latency_ms_p95 of mid was not measured: run ")


def test_a_rule_without_a_machine_takes_times_of_any() -> None:
    assert check_of("metric: latency_ms_p95, max: 100", latency(50, None)).outcome == "pass"


def test_a_time_that_was_never_measured_fails_as_before() -> None:
    check = check_of(ON_TWO_THREADS)
    assert (check.outcome, "was not measured" in check.reason) == ("fail", True)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("metric: latency_ratio_p95, max_increase: 0.1", "compared with stable already"),
        ("metric: latency_ratio_p95, max: 1.1, per: target", "compared with stable already"),
        ("metric: latency_ms_p95, max: 9, machine: {}", "at least one of cpu, accelerator, cores, threads"),
        ("metric: latency_ms_p95, max: 9, machine: {thread: 2}", "no field 'thread' here; did you mean threads?"),
        ("metric: latency_ms_p95, max: 9, machine: {threads: two}", "threads"),
        ("metric: latency_ms_p95, max: 9, machine: {threads: 0}", "threads"),
        ("metric: accuracy, min: 0.9, machine: {threads: 2}", "`machine` is for times"),
    ],
)
def test_a_rule_that_can_mean_nothing_is_refused(rule: str, said: str) -> None:
    with pytest.raises(BadPolicy) as caught:
        policy_of(rule)
    assert said in str(caught.value)


def test_a_policy_without_a_machine_keeps_its_digest() -> None:
    old, new = policy_of("metric: latency_ms_p95, max: 100"), policy_of(ON_TWO_THREADS)
    assert old.digest == "2b1f8c7840ec043b5910330b9b769b2a51af78e66fe521cbd2d06af72a2cc483"
    assert new.digest not in (old.digest, policy_of(ON_TWO_THREADS.replace("threads: 2", "threads: 3")).digest)
    (rule,) = new.rules_for("production", candidate().version)
    assert rule.document()["machine"] == {"cpu": "Xeon", "threads": 2}
    assert str(rule) == "latency_ms_p95 <= 100 on Xeon, 2 threads"

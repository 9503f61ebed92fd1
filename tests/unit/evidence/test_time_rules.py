"""Rules on times: ratios count against stable only, absolute times on the machine that the rule names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry.errors import BadPolicy
from registry.evidence.candidate import Candidate
from registry.evidence.gates import GateInputs, judge
from registry.evidence.policy import Policy, parse_policy
from registry.evidence.results import ComparedVersion, Evidence, Measurement, Metric
from registry.evidence.verdict import Check
from registry.machine.hardware import Machine
from tests.unit.evidence.samples import DATA, NOW, STABLE_MANIFEST, candidate, evidence, stable

SLOWER = "metric: latency_ratio_p95, max: 1.10, judge: bound"
ON_TWO_THREADS = "metric: latency_ms_p95, max: 100, machine: {cpu: Xeon, threads: 2}"
XEON = Machine(cpu="Xeon", cores=8, quota=4.0, load=0.5, threads=2)


def policy_of(rule: str) -> Policy:
    return parse_policy(f"format: 1\nchannels: {{staging: {{}}, production: {{defaults: [{{{rule}}}]}}}}".encode())


def check_of(rule: str, *found: Evidence, against: Candidate | None = None) -> Check:
    inputs = GateInputs("production", candidate(), found, stable=against)
    (check,) = judge(policy_of(rule), inputs, timestamp=NOW, who="tester").checks
    return check


def ratio(value: float, high: float, *, of: str = "v1.0.0", manifest: str = STABLE_MANIFEST, day: int = 1) -> Evidence:
    metric = Metric.of("latency_ratio_p95", value, n=600, low=value - 0.05, high=high, unit="ratio")
    named = ComparedVersion(version=of, manifest_sha256=manifest)
    return evidence("latency", metric, against=named, timestamp=f"2026-11-{day:02}T10:00:00Z")


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


def test_the_same_name_with_another_manifest_is_another_version() -> None:
    changed = replace(stable(), manifest_sha256="9" * 64)
    assert check_of(SLOWER, ratio(1.0, 1.05), against=changed).outcome == "inconclusive"
    unreadable = replace(stable(), manifest_sha256="")
    assert check_of(SLOWER, ratio(1.0, 1.05), against=unreadable).outcome == "inconclusive"


def test_a_ratio_without_a_stable_version_passes_with_a_note() -> None:
    check = check_of(SLOWER)
    assert (check.outcome, check.reason) == ("pass", "there is no stable version to compare with")


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

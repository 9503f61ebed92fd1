"""What becomes of checks: their results, the error that ends the command, and the evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadInput, CheckFailed, CorruptBlob, GateRefused, UloraError
from registry.evidence.metrics import METRICS, check_metric, recording_command
from registry.evidence.policy import parse_policy
from registry.evidence.results import Metric
from registry.usecases.check_results import (
    DEPLOYED,
    STORED,
    CheckPassed,
    CheckResult,
    CheckSkipped,
    VersionTest,
    evidence_of,
    run_check,
)
from registry.usecases.deployed_checks import percentile
from registry.usecases.version_test_options import TestOptions
from tests.support.measured_versions import manifest_of

MANIFEST = manifest_of("aads-ulora", "v1.0.0")


def raising(error: Exception) -> CheckResult:
    def check() -> CheckPassed:
        raise error

    return run_check("one", check)


def test_a_check_has_one_of_four_outcomes() -> None:
    failed = CheckFailed("no", hint="look", lines=("a", "b"))
    found = [run_check("one", lambda: CheckPassed("yes", 3)), raising(CheckSkipped("not here")), raising(failed)]
    found += [raising(GateRefused("refused")), raising(CorruptBlob("bad"))]
    assert [one.outcome for one in found] == ["passed", "skipped", "failed", "refused", "failed"]
    assert [one.said for one in found] == ["yes", "not here", "no", "refused", "bad"]
    assert (found[0].n, found[2].lines) == (3, ("a", "b"))
    assert found[2].document() | {"seconds": 0} == {
        "check": "one", "outcome": "failed", "said": "no", "lines": ("a", "b"), "seconds": 0, "error": "CheckFailed",
        "hint": "look",
    }  # fmt: skip


def test_what_nobody_foresaw_is_no_result() -> None:
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())


def test_the_first_failure_decides_the_exit_status() -> None:
    def failure(*errors: UloraError | CheckSkipped) -> int:
        found = VersionTest("m", "v1.0.0", "", tuple(map(raising, errors)))
        assert found.document()["passed"] is (found.failure is None)
        return found.failure.exit_code if found.failure else 0

    assert failure(CheckSkipped("x")) == 0
    assert failure(CheckSkipped("x"), CorruptBlob("x"), GateRefused("x")) == 6
    assert failure(GateRefused("x"), CheckFailed("x")) == 3
    assert failure(CheckFailed("x"), CorruptBlob("x")) == 1


def test_the_evidence_has_the_share_and_each_check() -> None:
    seconds = Metric.of("drill_seconds", 0.5, n=1, unit="s")
    results = [
        CheckResult("verify", "passed", "9 files"),
        CheckResult("golden", "skipped", "no model"),
        CheckResult("team", "failed", "1 of 4", n=1),
        CheckResult("drill", "passed", "back", metrics=(seconds,)),
    ]
    found = evidence_of(STORED, MANIFEST, results, runtime="torch-fp32", device="cpu", who="a test", about={"x": "y"})
    assert found
    assert {metric.name: metric.value for metric in found.metrics} == {
        "version_tests": 2 / 3, "version_tests_verify": 1, "version_tests_team": 0, "version_tests_drill": 1,
        "drill_seconds": 0.5,
    }  # fmt: skip
    assert (found.content_sha256, found.benchmark, found.data.n) == (MANIFEST.content_sha256, "tests", 3)
    assert found.notes["check team"] == "failed: 1 of 4"
    assert type(found).parse(found.to_bytes(), "it").sha256 == found.sha256


def test_without_a_check_there_is_no_evidence() -> None:
    skipped = [CheckResult("golden", "skipped", "no model")]
    assert evidence_of(STORED, MANIFEST, skipped, runtime="x", device="cpu", who="", about={}) is None


def test_a_policy_may_ask_for_every_metric_of_a_test() -> None:
    for benchmark in (STORED, DEPLOYED):
        for metric in METRICS[benchmark]:
            check_metric(metric)
            policy = f"format: 1\nchannels: {{staging: {{}}, production: {{defaults: [{{metric: {metric}, min: 1}}]}}}}"
            assert parse_policy(policy.encode()).channels["production"].defaults[0].metric == metric


@pytest.mark.parametrize(
    ("metric", "command"),
    [
        ("version_tests", "ulora test v1.0.0"),
        ("drill_seconds", "ulora test v1.0.0 --drill"),
        ("version_tests_team", "ulora test v1.0.0 --tests DIR"),
        ("deployed_tests_answers", "ulora test v1.0.0 --deployed URL"),
    ],
)
def test_each_metric_knows_the_command_that_records_it(metric: str, command: str) -> None:
    assert recording_command(metric, "v1.0.0") == command


@pytest.mark.parametrize(
    "wrong",
    [
        {"deployed": "http://x", "drill": True},
        {"deployed": "http://x", "tests": Path()},
        {"data": Path()},
        {"max_latency": 5.0},
        {"deployed": "http://x", "max_latency": float("nan")},
        {"requests": 0},
        {"timeout": 0.0},
        {"timeout": float("inf")},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        TestOptions(**wrong)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_percentile_is_the_smallest_that_holds_the_share(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(BadInput):
        percentile([], 0.5)

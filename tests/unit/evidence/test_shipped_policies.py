"""The policies that ship beside the default one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from registry.evidence.gates import GateInputs, Past, judge
from registry.evidence.policy import load_policy
from registry.evidence.results import Evidence, Metric
from registry.evidence.verdict import Verdict
from tests.unit.evidence.samples import CONTENT, NOW, candidate, evidence

AADS = Path("registry/evidence/aads_policy.yaml")


@dataclass(frozen=True)
class Published:
    """Figures of a target as its authors publish them: right answers of n, false rejections, rejected others of m."""

    right: int
    n: int
    rejected: int
    others_rejected: int
    others: int
    f1: float = 0.95


LIKE_THE_RELEASE = {
    "apricot__fruit": Published(96, 100, 3, 20, 25),
    "grape__leaf": Published(188, 200, 14, 40, 40),
    "maize__leaf": Published(91, 100, 4, 33, 35),
    "olive__leaf": Published(97, 100, 2, 29, 31),
    "pepper__leaf": Published(290, 300, 9, 38, 40, f1=0.88),
    "potato__leaf": Published(25, 26, 1, 30, 30),
    "strawberry__fruit": Published(140, 150, 5, 44, 45),
    "tomato__leaf": Published(179, 199, 12, 11, 18),
}
"""That of tomato leaves is the one that was published in figures (accuracy 0.8995, 11 of 18 rejected)."""


def measured(figures: dict[str, Published]) -> list[Evidence]:
    right = [
        metric
        for target, one in figures.items()
        for metric in (
            Metric.proportion("accuracy", one.right, one.n, target=target),
            Metric.of("balanced_accuracy", one.right / one.n, n=one.n, target=target),
            Metric.of("macro_f1", one.f1, n=one.n, target=target),
        )
    ]
    rejected = [
        metric
        for target, one in figures.items()
        for metric in (
            Metric.proportion("ood_false_alarm_rate", one.rejected, one.n, target=target),
            Metric.proportion("ood_near_detection_rate", one.others_rejected, one.others, target=target),
        )
    ]
    return [evidence("accuracy", *right), evidence("ood", *rejected)]


def verdict(figures: dict[str, Published]) -> Verdict:
    inputs = GateInputs(
        "production", candidate(targets=tuple(figures)), measured(figures), past=Past("staging", CONTENT, "f" * 64)
    )
    return judge(load_policy(AADS), inputs, timestamp=NOW, who="tester")


def test_of_the_published_targets_none_passes() -> None:
    refused = {check.target for check in verdict(LIKE_THE_RELEASE).refusals}
    assert refused == set(LIKE_THE_RELEASE)


def test_the_published_target_is_refused_for_what_was_published() -> None:
    checks = [check for check in verdict(LIKE_THE_RELEASE).refusals if check.target == "tomato__leaf"]
    assert {check.metric for check in checks} == {
        "accuracy",
        "balanced_accuracy",
        "ood_false_alarm_rate",
        "ood_near_detection_rate",
    }
    assert [check.observed for check in checks if check.metric == "accuracy"] == [pytest.approx(0.8995, abs=1e-4)]


def test_a_target_that_meets_everything_passes() -> None:
    assert verdict({"tomato__leaf": Published(196, 200, 8, 40, 40)}).allows


@pytest.mark.parametrize("others", [29, 0])
def test_with_too_few_others_nobody_can_tell(others: int) -> None:
    refused = verdict({"tomato__leaf": Published(196, 200, 8, others, others)}).refusals
    assert [check.metric for check in refused] == ["ood_near_detection_rate"]

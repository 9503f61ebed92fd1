"""The guard's rules as alerts: that Prometheus reads them, and which of them fires."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from registry.evidence.alert_rules import alert_rules, rule_groups
from registry.evidence.guard_rules import GuardRule
from registry.evidence.policy import load_policy

RULES = load_policy().guard_rules()


def rule(**fields: Any) -> GuardRule:
    return GuardRule.model_validate(fields)


def alerts(*rules: GuardRule) -> list[dict[str, Any]]:
    return [each for group in rule_groups(rules)["groups"] for each in group["rules"] if "alert" in each]


def test_each_band_has_an_alert_that_ends_where_the_next_begins() -> None:
    found = alerts(*RULES)
    assert [(each["alert"], each["labels"]["guard"], each["expr"].partition(" and ")[0]) for each in found] == [
        ("UloraAccuracyLow", "warn", "(ulora:accuracy < 0.95) >= 0.94"),
        ("UloraAccuracyLow", "rollback", "ulora:accuracy < 0.94"),
        ("UloraAccuracyLowAgainstStable", "rollback", "ulora:accuracy:against_stable < 0.99"),
        ("UloraOodAurocLow", "warn", "(ulora:ood_auroc < 0.89) >= 0.85"),
        ("UloraOodAurocLow", "rollback", "ulora:ood_auroc < 0.85"),
        ("UloraErrorRateHigh", "rollback", "(ulora:error_rate > 0.005) <= 0.01"),
        ("UloraErrorRateHigh", "rollback", "ulora:error_rate > 0.01"),
        ("UloraLatencyMsP95High", "warn", "(ulora:latency_ms_p95 > 200) <= 220"),
        ("UloraLatencyMsP95High", "rollback", "ulora:latency_ms_p95 > 220"),
        ("UloraLatencyRatioP95High", "warn", "ulora:latency_ratio_p95 > 1.1"),
    ]
    assert len({(each["alert"], each["labels"]["bound"]) for each in found}) == len(found)


def test_an_effect_and_least_numbers_move_the_alert() -> None:
    (found,) = alerts(rule(metric="error_rate", max=0.01, severity="hold", min_effect=0.005, min_n=500, dry_run=True))
    assert found["expr"] == "ulora:error_rate > 0.015 and ulora:asked >= 500"
    assert found["labels"] == {"severity": "warning", "guard": "hold", "bound": "0.01", "dry_run": "true"}


def test_what_replicas_do_not_measure_is_said() -> None:
    text = alert_rules(RULES, "d" * 64)
    assert "# Not here, as replicas have no metric of it: adapter_memory_mb <= 28, else hold." in text.splitlines()
    assert yaml.safe_load(text) == rule_groups(RULES)
    assert rule_groups((rule(metric="adapter_memory_mb", max=28, severity="hold"),)) == {"groups": []}


EVERY = (
    *RULES,
    rule(metric="flagged_rate", max_ratio=1.5, severity="warn", why="{{ .Nothing }} {{"),
    rule(metric="flagged_rate", min=0.01, severity="warn", dry_run=True),
    rule(metric="error_rate", max_ratio=2, severity="hold"),
)


def test_expressions_are_promql_over_what_is_recorded_before() -> None:
    seen: set[str] = set()
    for each in rule_groups(EVERY)["groups"][0]["rules"]:
        promql_parser.parse(each["expr"])
        seen.add(each.get("record", ""))
        used = {word for word in _words(each["expr"]) if word.startswith("ulora:")}
        assert used - {each.get("record")} <= seen


def _words(text: str) -> list[str]:
    return "".join(letter if letter.isalnum() or letter in ":_" else " " for letter in text).split()


needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="Debian's package `prometheus` has promtool"
)


def promtool(*words: str | Path) -> None:
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(alert_rules(EVERY, "d" * 64))
    return path


@pytest.mark.acceptance
@needs_promtool
def test_promtool_finds_the_rules_valid(rules_file: Path) -> None:
    promtool("check", "rules", rules_file)


BUCKETS = (0.1, 0.2, 0.22, 0.25)
FAST = (950, 1000, 1000, 1000)


def a_minute(
    arm: str, *, errors: int = 0, flags: int = 60, wrong: int = 20, missed: int = 20, below: Sequence[int] = FAST
) -> list[dict[str, str]]:
    """The series of a replica that answers 1000 requests of an arm each minute for 26 hours: of how many an event is
    counted; `below`: how many took at most as long as each of `BUCKETS`."""
    version = "v2.0.0" if arm == "canary" else "v1.0.0"
    who = f'job="ulora", instance="a", version="{version}", arm="{arm}"'
    counters = {
        f'ulora_requests_total{{{who}, code="200"}}': 1000 - errors,
        f'ulora_requests_total{{{who}, code="429"}}': 50,
        f'ulora_requests_total{{{who}, code="503"}}': 50,
        f'ulora_predictions_total{{{who}, target="leaf", outcome="answer"}}': 1000 - flags,
        f'ulora_predictions_total{{{who}, target="leaf", outcome="review"}}': flags,
        f'ulora_feedback_total{{{who}, result="labelled"}}': 1000,
        f'ulora_feedback_total{{{who}, result="wrong"}}': wrong,
        f'ulora_feedback_total{{{who}, result="alarmed"}}': 20,
        f'ulora_feedback_total{{{who}, result="ood"}}': 1000,
        f'ulora_feedback_total{{{who}, result="missed"}}': missed,
        f'ulora_request_duration_seconds_bucket{{{who}, le="+Inf"}}': 1000,
    }
    if errors:  # else there is no such series, as in a replica
        counters[f'ulora_requests_total{{{who}, code="500"}}'] = errors
    for bound, count in zip(BUCKETS, below, strict=True):
        counters[f'ulora_request_duration_seconds_bucket{{{who}, le="{bound}"}}'] = count
    return [{"series": series, "values": f"0+{count}x1600"} for series, count in counters.items()]


@pytest.mark.acceptance
@needs_promtool
@pytest.mark.parametrize(
    ("canary", "fires"),
    [
        ({}, []),
        ({"wrong": 55}, [("UloraAccuracyLow", "0.95"), ("UloraAccuracyLowAgainstStable", "0.99")]),
        ({"wrong": 61}, [("UloraAccuracyLow", "0.94"), ("UloraAccuracyLowAgainstStable", "0.99")]),
        ({"wrong": 31}, [("UloraAccuracyLowAgainstStable", "0.99")]),
        ({"missed": 240}, [("UloraOodAurocLow", "0.89")]),
        ({"missed": 300}, [("UloraOodAurocLow", "0.85")]),
        ({"errors": 4}, [("UloraErrorRateHighAgainstStable", "2")]),
        ({"errors": 8}, [("UloraErrorRateHigh", "0.005"), ("UloraErrorRateHighAgainstStable", "2")]),
        ({"errors": 20}, [("UloraErrorRateHigh", "0.01"), ("UloraErrorRateHighAgainstStable", "2")]),
        ({"flags": 100}, [("UloraFlaggedRateHighAgainstStable", "1.5")]),
        ({"flags": 5}, [("UloraFlaggedRateLow", "0.01")]),
        ({"below": (900, 940, 1000, 1000)}, [("UloraLatencyMsP95High", "200"), ("UloraLatencyRatioP95High", "1.1")]),
        ({"below": (900, 930, 940, 1000)}, [("UloraLatencyMsP95High", "220"), ("UloraLatencyRatioP95High", "1.1")]),
    ],
    ids=str,
)  # fmt: skip
def test_just_the_alerts_of_the_band_fire(
    rules_file: Path, canary: dict[str, Any], fires: list[tuple[str, str]]
) -> None:
    build = {
        "series": 'ulora_build_info{job="ulora", instance="a", model="aads", channel="production"}',
        "values": "1x1600",
    }
    firing = [{"labels": f'{{alertname="{name}", bound="{bound}"}}', "value": 1} for name, bound in fires]
    expected = {
        "expr": 'count by (alertname, bound) (ALERTS{alertstate="firing"})',
        "eval_time": "26h",
        "exp_samples": firing,
    }
    test = {
        "interval": "1m",
        "input_series": [build, *a_minute("stable"), *a_minute("canary", **canary)],
        "promql_expr_test": [expected],
    }
    file = rules_file.with_name("tests.yaml")
    file.write_text(yaml.safe_dump({"rule_files": [rules_file.name], "evaluation_interval": "10m", "tests": [test]}))
    promtool("test", "rules", file)

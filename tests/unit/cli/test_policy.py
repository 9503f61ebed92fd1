"""`ulora policy`: a file is checked without any server, and what it asks is printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.evidence.policy import load_policy
from tests.support.run_ulora import complains, ulora

POLICY = """\
format: 1
channels:
  staging: {}
  production:
    requires: staging
    defaults: [{metric: accuracy, min: 0.95, per: target, min_n: 100}]
    by_suffix: {ood: [{metric: ood_auroc, min: 0.99}]}
    by_flavor: {files: []}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def test_who_is_asked_and_when_not_is_told_too(tmp_path: Path) -> None:
    path, window = tmp_path / "people.yaml", "from: 2026-12-24T00:00:00Z, to: 2026-12-27T00:00:00Z, why: holidays"
    path.write_text(f"format: 1\nchannels: {{staging: {{}}, production: {{approvals: 2, freeze: [{{{window}}}]}}}}\n")
    done = ulora("policy", "check", path)
    assert done.out.splitlines()[3:6] == [
        "production asks of every version:",
        "  2 people approved it with `ulora approve`",
        "  it is not from 2026-12-24T00:00:00Z to 2026-12-27T00:00:00Z: holidays",
    ]
    asked = ulora("policy", "check", path, "--json").document["channels"]["production"]
    assert (asked["approvals"], list(asked["freeze"][0])) == (2, ["from", "to", "why"])


def test_a_rule_that_never_decides_is_told_what_does(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    rules = "{metric: latency_ms_p95, max_increase: 5}, {metric: adapter_memory_mb, max_increase: 5}"
    path.write_text(f"format: 1\nchannels: {{staging: {{}}, production: {{defaults: [{rules}]}}}}\n")
    done = ulora("policy", "check", path)
    assert done.code == 0
    assert done.out.splitlines()[4:6] == [
        "  latency_ms_p95 <= stable + 5: never decides, as times of two runs are not compared; use latency_ratio_p95 "
        "with `max`",
        "  adapter_memory_mb <= stable + 5",
    ]


def test_a_valid_policy_is_told_by_its_rules(policy: Path) -> None:
    done = ulora("policy", "check", policy)
    assert done.code == 0, done
    assert done.out.splitlines()[:10] == [
        f"{policy} is valid",
        "staging asks of every version:",
        "  nothing",
        "production asks of every version:",
        "  was stable in staging, and not rolled back since",
        "  accuracy >= 0.95 for every target, n >= 100",
        "production asks of versions whose suffix has 'ood', too; a min or max takes the place of the one above:",
        "  ood_auroc >= 0.99",
        "production asks of versions of the flavor 'files', in the place of these rules:",
        "  nothing",
    ]
    document = ulora("policy", "check", policy, "--json").document
    assert document["sha256"] == load_policy(policy).digest
    assert document["channels"]["production"]["defaults"][0]["min_n"] == 100


def test_a_mistake_is_named_with_its_line_and_a_suggestion(policy: Path) -> None:
    policy.write_text(POLICY.replace("metric: accuracy", "metric: acuracy"))
    complains(ulora("policy", "check", policy), 2, "line 6", "'acuracy'; did you mean accuracy?")


def test_the_rules_in_force_are_those_of_the_setting(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_STORE", "s3://nowhere/at-all")
    monkeypatch.delenv("ULORA_POLICY", raising=False)
    shown = ulora("policy", "show").out
    assert shown.startswith("policy: the default policy, as no other is set (ULORA_POLICY)")
    assert "  ood_false_alarm_rate <= 0.06 for every target, n >= 300" in shown
    monkeypatch.setenv("ULORA_POLICY", str(policy))
    assert ulora("policy", "show").out.startswith(f"policy: {policy}\n")
    assert ulora("policy", "show", "--json").document["file"] == str(policy)


GUARDED = (
    POLICY
    + """\
trials:
  plans: {default: [{percent: 5, hold: 90s, min_units: 1}]}
guard:
  rules:
    - {metric: accuracy, min: 0.9, severity: rollback, why: "no {{ template }}"}
    - {metric: accuracy, min: 0.92, severity: hold}
"""
)


def test_bands_and_plans_are_told(policy: Path) -> None:
    policy.write_text(GUARDED)
    done = ulora("policy", "check", policy)
    assert done.out.splitlines()[10:] == [
        "the guard judges what serves:",
        "  accuracy: < 0.9 roll back | 0.9–0.92 hold | >= 0.92 pass",
        "plans of trials:",
        "  default: 5% for 90s and 1 unit",
        "  after 72h without data or a decision, a person decides",
        "  of versions that are not worse so many are rolled back at most: errors 0.02, accuracy 0.02, latency 0.01",
        "  `ulora canary report` judges at 2,500 labelled units of either version; accuracy up by 0.5 points or "
        "compute time down by 10%, at p < 0.05; accuracy down by 1 point at most; errors below 0.1%",
    ]
    document = ulora("policy", "check", policy, "--json").document
    assert document["guard"]["rules"][1] == {"metric": "accuracy", "min": 0.92, "severity": "hold"}
    assert document["trials"]["plans"]["default"][0]["hold"] == "90s"


def test_bands_and_plans_that_ship_are_told_as_such(policy: Path) -> None:
    told = ulora("policy", "check", policy).out.splitlines()
    assert "the guard judges what serves (as shipped: the policy does not say):" in told
    assert "  accuracy: < 0.94 roll back | 0.94–0.95 warn | >= 0.95 pass" in told
    assert "  default: 10% for 24h and 1000 units, then 50% for 24h and 5000 units, then 100%, watched for 7d" in told


def test_a_guard_without_rules_is_told(policy: Path) -> None:
    policy.write_text(POLICY + "guard: {rules: []}\n")
    assert "  by nothing" in ulora("policy", "check", policy).out.splitlines()
    assert ulora("policy", "prometheus", policy, "--json").document == {"groups": []}


def test_a_band_that_is_wrong_is_named_with_its_line(policy: Path) -> None:
    policy.write_text(
        GUARDED.replace("severity: hold", "severity: rollback").replace("severity: rollback", "severity: warn", 1)
    )
    assert ulora("policy", "check", policy).code == 2
    complains(ulora("policy", "check", policy), 2, "line 13", "guard.rules.0.severity", "nobody reaches this band")


def test_alerts_are_those_of_the_file_or_of_the_setting(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ULORA_POLICY", raising=False)
    shipped = ulora("policy", "prometheus").out
    assert shipped.startswith(f"# Written by `ulora policy prometheus` from the policy {load_policy().digest}.")
    policy.write_text(GUARDED)
    monkeypatch.setenv("ULORA_POLICY", str(policy))
    assert ulora("policy", "prometheus").out == ulora("policy", "prometheus", policy).out != shipped

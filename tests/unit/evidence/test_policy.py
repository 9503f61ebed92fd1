"""Policies: the default one, which rules hold for a version, and errors that name the line and the field."""

import contextlib
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from registry import plugins
from registry.errors import BadPolicy
from registry.evidence.policy import MAX_POLICY, Policy, load_policy, parse_policy
from registry.names import VersionName

PLAIN = """\
format: 1
channels:
  staging: {}
  production:
    defaults:
      - metric: accuracy
        min: 0.9
    by_suffix:
      fast:
        - metric: accuracy
          min: 0.8
      small:
        - {metric: adapter_memory_mb, max: 1}
"""


def rules(policy: Policy, version: str, channel: str = "production") -> list[str]:
    return [str(rule) for rule in policy.rules_for(channel, VersionName.parse(version))]


DEFAULTS = {
    "accuracy >= 0.95 for every target",
    "accuracy >= 0.93 for every target with 95% confidence",
    "accuracy >= stable - 0.03 for every target with 95% confidence on the same images",
    "crop_routing_accuracy >= 0.98",
    "crop_routing_accuracy >= 0.96 with 95% confidence",
    "ood_auroc >= 0.92 for every target",
    "ood_auroc >= 0.9 for every target with 95% confidence",
    "ood_fpr95 <= 0.05 for every target",
    "ood_fpr95 <= 0.1 for every target with 95% confidence",
    "ood_detection_rate >= 0.9 for every target",
    "ood_detection_rate >= 0.85 for every target with 95% confidence",
    "ood_false_alarm_rate <= 0.06 for every target",
    "ood_false_alarm_rate <= 0.09 for every target with 95% confidence",
    "ood_near_detection_rate measured for every target",
    "latency_ms_p95 <= 200 on cpu, torch-fp32",
    "adapter_memory_mb <= 25 for every target",
}


@pytest.mark.parametrize(
    ("version", "without", "added"),
    [
        ("v5.5.4", set(), set()),
        ("v5.5.4-dinov3", set(), set()),
        ("v5.5.4-food", set(), set()),
        (
            "v5.5.4-ood",
            set(),
            {
                "latency_ratio_p50 <= 1.1 on cpu, torch-fp32 against stable with 95% confidence",
                "latency_ratio_p95 <= 1.25 on cpu, torch-fp32 against stable with 95% confidence",
            },
        ),
        ("v5.5.4-router.2", {"crop_routing_accuracy >= 0.98"}, {"crop_routing_accuracy >= 0.985"}),
        (
            "v5.5.3-performance",
            {"latency_ms_p95 <= 200 on cpu, torch-fp32", "adapter_memory_mb <= 25 for every target"},
            {"latency_ms_p95 <= 150 on cpu, torch-fp32", "adapter_memory_mb <= 20 for every target"},
        ),
    ],
)
def test_the_default_policy_asks_for_what_is_documented(version: str, without: set[str], added: set[str]) -> None:
    found = rules(load_policy(), version)
    assert set(found) == DEFAULTS - without | added
    assert len(found) == len(set(found))


def test_the_default_policy_asks_staging_only_for_measurements() -> None:
    asked = load_policy().rules_for("staging", VersionName.parse("v1.0.0"))
    assert {rule.kind for rule in asked} == {"measured"}
    assert {rule.metric for rule in asked} == {text.split()[0] for text in DEFAULTS}


def test_production_requires_a_past_in_staging() -> None:
    policy = load_policy()
    assert policy.required_channel("production") == "staging"
    assert policy.required_channel("staging") is None


def test_a_scratch_channel_has_no_rules() -> None:
    assert rules(load_policy(), "v1.0.0", "drill-x1") == []
    assert load_policy().required_channel("drill-x1") is None


def test_two_suffix_words_that_both_set_a_bound_hold_together() -> None:
    policy = parse_policy((PLAIN + "        - {metric: accuracy, min: 0.85}\n").encode())
    assert set(rules(policy, "v1.0.0-fast.small")) == {"accuracy >= 0.8", "accuracy >= 0.85", "adapter_memory_mb <= 1"}


def test_a_suffix_upper_bound_does_not_lift_the_lower_bound() -> None:
    policy = parse_policy((PLAIN + "        - {metric: accuracy, max: 0.99}\n").encode())
    assert set(rules(policy, "v1.0.0-small")) == {"accuracy >= 0.9", "accuracy <= 0.99", "adapter_memory_mb <= 1"}


def test_the_digest_ignores_how_a_policy_is_written() -> None:
    digest = parse_policy(PLAIN.encode()).digest
    rewritten = "# a comment\n" + yaml.safe_dump(yaml.safe_load(PLAIN), default_flow_style=True)
    assert parse_policy(rewritten.encode()).digest == digest
    assert parse_policy(PLAIN.replace("0.9", "0.91").encode()).digest != digest


def test_a_policy_of_your_own_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(PLAIN)
    assert load_policy(path) == parse_policy(PLAIN.encode())


def test_a_policy_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadPolicy, match=r"mine\.yaml can't be read"):
        load_policy(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("was", "is_now", "said"),
    [
        ("min: 0.9", "min: high", r"line 7: channels\.production\.defaults\.0\.min: .*number"),
        ("min: 0.9", "mni: 0.9", r"line 7: channels\.production\.defaults\.0\.mni: "),
        ("min: 0.9", "min: .nan", r"line 7: .*valid number"),
        ("min: 0.9", "min: 1e999", r"can't be read"),
        ("min: 0.9", "min: 0_9", r"line 7: .*valid number"),
        ("format: 1", "format: 01", r"line 1: format"),
        ("min: 0.9", "min: 0.9\n        max: 1", r"line 6: channels\.production\.defaults\.0: a rule has at most one"),
        ("min: 0.9", "max_increase: -1", r"line 7: .*max_increase"),
        ("min: 0.9", "per: leaf", r"line 7: .*per"),
        ("metric: adapter_memory_mb", "metric: Size MB", r"line 13: .*by_suffix\.small\.0\.metric"),
        ("small:", "not-one-word:", r"by_suffix\.not-one-word"),
        ("small:", "fast:", r"line 12: .*'fast'.* repeated"),
        ("format: 1", "format: 2", r"line 1: format"),
        ("format: 1", "format: true", r"line 1: format: .*should be 1"),
        ("format: 1", "format: 1.0", r"line 1: format: .*should be 1"),
        ("format: 1", "format: [", r"line \d+: "),
        ("  staging: {}\n", "", r"staging and production"),
        ("  staging: {}", "  stagging: {}\n  staging: {}", r"staging and production"),
        ("  staging: {}", "  staging: {requires: production}", r"staging can't require 'production'"),
        ("staging: {}", "staging: &a {}\n  other: *a", r"line 3: anchors and aliases are not allowed"),
        ("staging: {}", "staging: !!python/object:os.system {}", r"line 3: tags"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_field(was: str, is_now: str, said: str) -> None:
    with pytest.raises(BadPolicy, match=said) as caught:
        parse_policy(PLAIN.replace(was, is_now, 1).encode())
    assert "\n" not in str(caught.value)
    assert "docs/policy.md" in caught.value.hint


@pytest.mark.parametrize(
    ("was", "is_now", "said"),
    [
        ("metric: accuracy", "metric: acuracy", r"line 6: .*there is no metric 'acuracy'; did you mean accuracy\?"),
        ("metric: accuracy", "metric: zzz", r"there is no metric 'zzz'; there are: accuracy, balanced_accuracy, "),
        ("min: 0.9", "mni: 0.9", r"there is no field 'mni' here; did you mean min\?"),
        ("min: 0.9", "target: potato", r"there is no field 'target' here; there are: metric, min, max, "),
        ("min: 0.9", "per: potato", r"'all', 'target', 'worst' or 'mean' \(`target` judges every target by itself"),
        ("metric: accuracy", "metirc: accuracy", r"line 6: .*no field 'metirc' here; did you mean metric\?"),
        ("defaults:", "default:", r"there is no field 'default' here; did you mean defaults\?"),
        ("channels:", "chanels:", r"chanels: there is no field 'chanels' here; did you mean channels\?"),
        ("  staging: {}", "  stagging: {}", r"no channel is called 'stagging'; did you mean staging\?"),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(was: str, is_now: str, said: str) -> None:
    with pytest.raises(BadPolicy, match=said):
        parse_policy(PLAIN.replace(was, is_now, 1).encode())


def test_another_packages_benchmark_may_name_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PLAIN.replace("metric: accuracy", "metric: energy_joules").encode()
    with pytest.raises(BadPolicy, match="no metric 'energy_joules'"):
        parse_policy(text)
    installed = tmp_path / "energy-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: energy\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{plugins.BENCHMARKS}]\nenergy = energy:measure\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "energy_joules >= 0.9" in rules(parse_policy(text), "v1.0.0")


SNAPSHOTS = PLAIN + "    by_flavor:\n      files: []\n      other: [{metric: macro_f1}]\n"


def test_a_policy_that_judges_values_has_the_digest_that_it_had() -> None:
    said = PLAIN.replace("min: 0.9\n", "min: 0.9\n        judge: value\n")
    assert parse_policy(said.encode()).digest == parse_policy(PLAIN.encode()).digest
    judged = PLAIN.replace("min: 0.9\n", "min: 0.9\n        judge: bound\n")
    assert parse_policy(judged.encode()).digest != parse_policy(PLAIN.encode()).digest
    assert "judge" not in parse_policy(said.encode()).channels["production"].defaults[0].document()


def test_a_policy_without_approvals_has_the_digest_that_it_had() -> None:
    said = PLAIN.replace("production:\n", "production:\n    approvals: 0\n    freeze: []\n")
    assert parse_policy(said.encode()).digest == parse_policy(PLAIN.encode()).digest
    asked = PLAIN.replace("production:\n", "production:\n    approvals: 2\n")
    assert parse_policy(asked.encode()).digest != parse_policy(PLAIN.encode()).digest


@pytest.mark.parametrize(
    ("window", "said"),
    [
        ("from: 2026-12-24T12:00:00, to: 2026-12-27T08:00:00+01:00", "has no time zone"),
        ("from: 2026-12-27T08:00:00Z, to: 2026-12-24T12:00:00Z", "before it begins"),
        ("from: yesterday, to: 2026-12-24T12:00:00Z", "Invalid isoformat string"),
        ("to: 2026-12-24T12:00:00Z", "from: Field required"),
        ("from: 2026-12-24T12:00:00Z, to: 2026-12-25T12:00:00Z, whi: x", "did you mean why"),
    ],
)
def test_a_freeze_that_is_none_is_refused(window: str, said: str) -> None:
    with pytest.raises(BadPolicy, match=said):
        parse_policy(PLAIN.replace("production:\n", f"production:\n    freeze: [{{{window}}}]\n").encode())


def test_of_several_freezes_the_one_that_ends_last_holds() -> None:
    windows = ", ".join(f"{{from: 2026-12-01T00:00:00Z, to: 2026-12-{day}T00:00:00Z}}" for day in ("10", "24", "20"))
    policy = parse_policy(PLAIN.replace("production:\n", f"production:\n    freeze: [{windows}]\n").encode())
    now = datetime(2026, 12, 5, tzinfo=UTC)
    held = policy.frozen("production", now)
    assert held is not None
    assert held.to == "2026-12-24T00:00:00Z"
    assert policy.frozen("production", datetime(2026, 12, 24, tzinfo=UTC)) is None
    assert policy.frozen("staging", now) is None


def test_a_suffix_replaces_only_what_is_judged_in_the_same_way() -> None:
    both = PLAIN.replace("min: 0.9\n", "min: 0.9\n      - {metric: accuracy, min: 0.7, judge: bound}\n")
    assert rules(parse_policy(both.encode()), "v1.0.0-fast") == [
        "accuracy >= 0.7 with 95% confidence",
        "accuracy >= 0.8",
    ]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("metric: accuracy, min: 0.9, confidence: 0.9", "looks at no interval"),
        ("metric: accuracy, max_decrease: 0.1, judge: bound", "needs `min` or `max`"),
        ("metric: accuracy, judge: bound", "needs `min` or `max`"),
        ("metric: accuracy, min: 0.9, judge: bound, per: mean", "per: target"),
        ("metric: accuracy, min: 0.9, judge: bound, confidence: 1.0", "less than 1"),
        ("metric: accuracy, min: 0.9, judge: guess", "'value', 'bound' or 'paired'"),
    ],
)
def test_a_rule_that_judges_nothing_is_refused(rule: str, said: str) -> None:
    with pytest.raises(BadPolicy, match=said):
        parse_policy(f"format: 1\nchannels: {{staging: {{}}, production: {{defaults: [{{{rule}}}]}}}}".encode())


def test_a_flavor_has_rules_of_its_own() -> None:
    policy, version = parse_policy(SNAPSHOTS.encode()), VersionName.parse("v1.0.0-fast")
    assert policy.rules_for("production", version, "files") == ()
    assert [str(rule) for rule in policy.rules_for("production", version, "other")] == ["macro_f1 measured"]
    assert [str(rule) for rule in policy.rules_for("production", version, "dino-lora")] == ["accuracy >= 0.8"]


def test_a_policy_without_flavors_has_the_digest_that_it_had() -> None:
    assert parse_policy(PLAIN.encode()).digest == "f33ae8948b275cc4b3347bedfe035d7db43d724bb695a7930936fc62afeb98b4"
    assert parse_policy(SNAPSHOTS.encode()).digest != parse_policy(PLAIN.encode()).digest


@given(st.binary() | st.text().map(str.encode))
@example(b"")
@example(b"[" * 3000)
@example(b"a: 2020-99-99")
@example(b"a: 2020-01-01")
@example(b"? [x]\n: 1")
@example(b"<<: {a: 1}")
@example(b"--- 1\n--- 2")
@example(b"a: !!binary x")
@example(b"a: !!set {x}")
@example(b"\xef\xbb\xbf" + b"a: 1")
@example(b" " * (MAX_POLICY + 1))
def test_junk_is_only_ever_a_bad_policy(junk: bytes) -> None:
    with pytest.raises(BadPolicy):
        parse_policy(junk)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LEAVES, inner, max_size=3), max_leaves=8
)
RULES = st.fixed_dictionaries(
    {"metric": st.just("accuracy") | TREES}, optional={"min": TREES, "max": TREES, "per": TREES, "min_n": TREES}
)


@given(st.lists(RULES, max_size=3) | TREES, st.just({}) | TREES)
def test_a_policy_with_junk_inside_parses_or_is_a_bad_policy(defaults: object, suffixes: object) -> None:
    production = {"defaults": defaults, "by_suffix": suffixes}
    text = yaml.safe_dump({"format": 1, "channels": {"staging": {}, "production": production}})
    with contextlib.suppress(BadPolicy):
        rules_found = parse_policy(text.encode()).rules_for("production", VersionName.parse("v1.0.0"))
        assert all(rule.metric == "accuracy" for rule in rules_found)


@given(TREES, TREES, st.lists(RULES, max_size=3) | TREES)
def test_junk_in_trials_and_guard_is_only_ever_a_bad_policy(plans: object, alpha: object, rules_given: object) -> None:
    document = {"format": 1, "channels": {"staging": {}, "production": {}}}
    document |= {"trials": {"plans": plans, "alpha": alpha}, "guard": {"rules": rules_given}}
    with contextlib.suppress(BadPolicy):
        assert parse_policy(yaml.safe_dump(document).encode()).digest


def test_the_example_in_the_docs_parses() -> None:
    text = (Path(__file__).parents[3] / "docs" / "policy.md").read_text("utf-8")
    example_policy, snapshots, trials = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert str(parse_policy(trials.encode()).trial_plan("quick")) == "25% for 30m and 200 units"
    assert parse_policy(snapshots.encode()).rules_for("production", VersionName.parse("v1.0.0"), "files") == ()
    policy = parse_policy(example_policy.encode())
    assert "accuracy >= stable - 0.01 for every target" in rules(policy, "v5.5.4")
    assert "latency_ms_p95 <= 120 on cpu, torch-fp32" in rules(policy, "v5.6.0-performance.2")

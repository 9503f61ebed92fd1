"""The section `guard` of a policy: bands of metrics, what is refused, and what holds where nothing is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadPolicy
from registry.evidence import kept_policy
from registry.evidence.guard_rules import SEVERITIES, Bands, GuardRule
from registry.evidence.policy import Policy, load_policy, parse_policy
from tests.support.pages import ROOT

CHANNELS = "format: 1\nchannels: {staging: {}, production: {}}\n"


def policy(*rules: str) -> Policy:
    """A policy whose rule number N stands on line N + 4."""
    return parse_policy((CHANNELS + "guard:\n  rules:\n" + "".join(f"    - {{{rule}}}\n" for rule in rules)).encode())


def bands(*rules: str) -> list[str]:
    return [str(each) for each in Bands.of(policy(*rules).guard_rules())]


def test_the_default_rules_are_those_that_are_documented() -> None:
    found = [str(each) for each in Bands.of(load_policy().guard_rules())]
    assert "\n".join(found) in (ROOT / "docs" / "policy.md").read_text("utf-8")
    assert found == [
        "accuracy: < 0.94 roll back | 0.94–0.95 warn | >= 0.95 pass",
        "accuracy / stable's: < 0.99 roll back | >= 0.99 pass",
        "ood_auroc: < 0.85 roll back | 0.85–0.89 warn | >= 0.89 pass",
        "error_rate: <= 0.005 pass | 0.005–0.01 roll back | > 0.01 roll back",
        "latency_ms_p95: <= 200 pass | 200–220 warn | > 220 roll back",
        "latency_ratio_p95: <= 1.1 pass | > 1.1 warn",
        "adapter_memory_mb: <= 25 pass | 25–28 warn | > 28 hold",
    ]


def test_without_the_section_the_default_rules_hold() -> None:
    plain = parse_policy(CHANNELS.encode())
    assert plain.guard_rules() == load_policy().guard_rules()
    assert b"guard" not in plain.to_bytes()
    assert b"trials" not in plain.to_bytes()
    assert parse_policy((CHANNELS + "guard: {rules: []}\n").encode()).guard_rules() == ()


def test_a_kept_policy_has_the_rules_of_its_time() -> None:
    said = policy("metric: accuracy, min: 0.9, severity: hold, min_effect: 0.01, dry_run: true, why: new")
    kept = kept_policy.read(said.to_bytes(), "policy")
    assert kept == said
    full = parse_policy(CHANNELS.encode()).in_full()
    assert kept_policy.read(full.to_bytes(), "policy").guard == load_policy().guard
    assert full.in_full().digest == full.digest


def test_what_is_as_if_left_out_does_not_change_the_digest() -> None:
    said = policy(
        "metric: error_rate, max: 0.01, severity: warn, missing: hold, min_effect: 0, dry_run: false, min_n: 0"
    )
    assert said.digest == policy("metric: error_rate, max: 0.01, severity: warn").digest
    assert said.digest != policy("metric: error_rate, max: 0.01, severity: hold").digest


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["metric: acuracy, min: 0.9, severity: warn"], r"line 5: guard\.rules\.0\.metric: .*did you mean accuracy\?"),
        (["metric: latency_ms_p50, max: 9, severity: warn"], r"rules\.0\.metric: the guard does not observe"),
        (["metric: accuracy, min: 0.9"], r"line 5: guard\.rules\.0\.severity: Field required"),
        (["metric: accuracy, min: 0.9, severity: panic"], r"'warn', 'hold' or 'rollback'"),
        (["metric: accuracy, severity: warn"], r"rules\.0: a rule of the guard has a bound: .*`min_ratio`"),
        (["metric: accuracy, max: 0.9, severity: warn"], r"rules\.0\.max: accuracy takes `min` or `min_ratio` here"),
        (["metric: latency_ms_p95, max_ratio: 2, severity: warn"], r"rules\.0\.max_ratio: latency_ms_p95 takes `max`"),
        (["metric: accuracy, min: 0.9, min_ratio: 0.9, severity: warn"], r"at most one of min, min_ratio, max"),
        (["metric: accuracy, min: 94, severity: warn"], r"rules\.0\.min: 94 can't be crossed: .* less than 1"),
        (["metric: error_rate, max: 0, severity: warn"], r"rules\.0\.max: 0 can't be crossed"),
        (["metric: accuracy, min_ratio: 0, severity: warn"], r"rules\.0\.min_ratio: 0 can't be crossed"),
        (["metric: accuracy, min: 0.1, min_effect: 0.2, severity: warn"], r"min_effect: no value is 0\.2 beyond 0\.1"),
        (["metric: error_rate, max: 0.9, min_effect: 0.2, severity: warn"], r"min_effect: no value"),
        (["metric: accuracy, min: 0.9, severity: warn, missing: zero"], r"rules\.0\.missing: no data would count as 0"),
        (["metric: accuracy, mim: 0.9, severity: warn"], r"there is no field 'mim' here; did you mean min\?"),
        (["metric: accuracy, min: 0.9, severity: warn, targets: 5"], r"there are: metric, min, max, min_n, why"),
    ],
)  # fmt: skip
def test_a_rule_that_can_not_be_meant_is_refused(rules: list[str], said: str) -> None:
    with pytest.raises(BadPolicy, match=said):
        policy(*rules)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_increase", "1"), ("max_decrease", "1"), ("per", "worst"), ("judge", "paired"), ("confidence", "0.9"),
        ("device", "cpu"), ("runtime", "torch-fp32"), ("machine", "{cores: 2}"),
    ],
)  # fmt: skip
def test_a_field_of_gates_is_refused_by_its_name(field: str, value: str) -> None:
    second = f"metric: latency_ms_p95, max: 9, severity: warn, {field}: {value}"
    with pytest.raises(BadPolicy, match=rf"line 6: guard\.rules\.1\.{field}: `{field}` is for gates"):
        policy("metric: accuracy, min: 0.9, severity: warn", second)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("min: 0.94, severity: warn", r"line 7: guard\.rules\.2\.min: accuracy has this bound already, in rules\.0"),
        ("min: 0.90, severity: warn", r"line 7: guard\.rules\.2\.severity: nobody reaches this band: rules\.0 begins"),
        ("min: 0.95, severity: rollback", None),
        ("min: 0.90, severity: rollback", None),
        ("min: 0.94, severity: warn, dry_run: true", None),
        ("min_ratio: 0.94, severity: warn", None),
    ],
)
def test_bands_that_overlap_or_are_never_reached_are_refused(second: str, said: str | None) -> None:
    rules = ["metric: accuracy, min: 0.94, severity: rollback", "metric: error_rate, max: 0.94, severity: warn"]
    rules.append(f"metric: accuracy, {second}")
    if said is None:
        assert len(policy(*rules).guard_rules()) == 3
        return
    with pytest.raises(BadPolicy, match=said):
        policy(*rules)


def test_two_sides_have_to_leave_something_between_them() -> None:
    low, high = "metric: flagged_rate, min: 0.2, severity: warn", "metric: flagged_rate, max: 0.1, severity: warn"
    with pytest.raises(
        BadPolicy, match=r"line 6: guard\.rules\.1\.max: no flagged_rate passes: rules\.0 asks for 0\.2"
    ):
        policy(low, high)
    assert bands(low, high.replace("0.1", "0.3")) == [
        "flagged_rate: < 0.2 warn | >= 0.2 pass",
        "flagged_rate: <= 0.3 pass | > 0.3 warn",
    ]


def test_what_a_rule_adds_is_said_in_its_band() -> None:
    assert bands("metric: accuracy, min: 0.9, severity: hold, min_effect: 0.005, dry_run: true") == [
        "accuracy: < 0.9 hold if by 0.005 or more (dry run) | >= 0.9 pass"
    ]


def test_the_bands_of_a_family_that_roll_back_share_its_error() -> None:
    default = load_policy()
    shares = {str(rule): default.alpha_of(rule) for rule in default.guard_rules()}
    assert shares["error_rate <= 0.005, else roll back"] == shares["error_rate <= 0.01, else roll back"] == 0.02
    assert shares["accuracy >= 0.99 x stable, else roll back"] == pytest.approx(0.02 / 3)
    assert shares["latency_ms_p95 <= 220, else roll back"] == 0.01
    assert shares["adapter_memory_mb <= 28, else hold"] == 1


def test_a_rule_that_is_only_tried_spends_no_error() -> None:
    tried = policy("metric: accuracy, min: 0.9, severity: rollback, dry_run: true", "metric: ood_auroc, min: 0.8, "
                   "severity: rollback")  # fmt: skip
    assert tried.alpha_of(tried.guard_rules()[1]) == 0.02


BOUNDS = st.integers(1, 99).map(lambda hundredths: hundredths / 100)


@given(st.dictionaries(BOUNDS, st.sampled_from(SEVERITIES), min_size=1, max_size=5), st.booleans(), BOUNDS)
def test_each_value_is_in_exactly_one_band(severities: dict[float, str], upwards: bool, value: float) -> None:
    deepest_last = sorted(severities, reverse=not upwards)
    ranks = sorted(severities.values(), key=list(SEVERITIES).index)
    kind, metric = ("max", "error_rate") if upwards else ("min", "accuracy")
    rules = [
        GuardRule.model_validate({"metric": metric, kind: bound, "severity": rank})
        for bound, rank in zip(deepest_last, ranks, strict=True)
    ]
    (found,) = Bands.of(rules)
    rule = found.rule_for(value)
    crossed = [each for each in rules if (value > each.bound if upwards else value < each.bound)]
    assert rule == (crossed[-1] if crossed else None)

"""A policy's rules of the guard as a file of rules for Prometheus, over the metrics of replicas.

The guard counts units and says how sure it is; these alerts compare plain rates over a window with the same bounds. So
they are for dashboards and pagers, and nothing follows from them. As bands do, of the rules on one metric one fires.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from registry.evidence.guard_rules import ACTIONS, Bands, GuardRule
from registry.evidence.number_text import exact

_SHORT, _LONG = "10m", "1d"
"""Of what requests say, and of labels, which come late."""
_LEAST = 100
"""With fewer requests, or labels, in the window nothing fires, whatever a rule's `min_n`."""
_ARM = "model, channel, version, arm"
_FIRES_AFTER = "5m"


def _sum(series: str, window: str, *chosen: str, by: str = _ARM) -> str:
    """An expression: how much a counter of replicas grew, of each version and arm in each channel."""
    where = ",".join(('arm=~"stable|canary"', 'version!=""', *chosen))
    told = "* on (job, instance) group_left (model, channel) ulora_build_info"
    return f"sum by ({by}) (increase({series}{{{where}}}[{window}]) {told})"


def _feedback(result: str) -> str:
    return _sum("ulora_feedback_total", _LONG, f'result="{result}"')


def _share(part: str, whole: str) -> str:
    """An expression for a share that is 0, not absent, where the part was never counted."""
    return f"(({part}) or {whole} * 0) / {whole}"


def _against_stable(series: str) -> str:
    stable = f'avg by (model, channel) ({series}{{arm="stable"}})'
    return f'{series}{{arm="canary"}} / on (model, channel) group_left () {stable}'


_RECORDED = {
    "ulora:asked": _sum("ulora_requests_total", _SHORT),
    "ulora:error_rate": _share(
        _sum("ulora_requests_total", _SHORT, 'code=~"5.."', 'code!~"503|504"'), "ulora:asked"
    ),
    "ulora:answered": _sum("ulora_predictions_total", _SHORT, 'outcome=~"answer|review"'),
    "ulora:flagged_rate": _share(_sum("ulora_predictions_total", _SHORT, 'outcome="review"'), "ulora:answered"),
    "ulora:latency_ms_p95": "1000 * histogram_quantile(0.95, "
    + _sum("ulora_request_duration_seconds_bucket", _SHORT, by=f"{_ARM}, le")
    + ")",
    "ulora:latency_ratio_p95": _against_stable("ulora:latency_ms_p95"),
    "ulora:labelled": _feedback("labelled"),
    "ulora:accuracy": f"1 - {_share(_feedback('wrong'), 'ulora:labelled')}",
    "ulora:labelled_ood": _feedback("ood"),
    "ulora:ood_auroc": f"1 - ({_share(_feedback('missed'), 'ulora:labelled_ood')} + "
    f"{_share(_feedback('alarmed'), 'ulora:labelled')}) / 2",
}  # fmt: skip
"""What is recorded, in the order in which one needs another."""


@dataclass(frozen=True)
class _Series:
    """Which of `_RECORDED` a metric needs, itself at last, and which of them says of how many it is."""

    needs: tuple[str, ...]
    count: str


_SERIES = {
    "error_rate": _Series(("ulora:asked", "ulora:error_rate"), "ulora:asked"),
    "flagged_rate": _Series(("ulora:answered", "ulora:flagged_rate"), "ulora:answered"),
    "latency_ms_p95": _Series(("ulora:asked", "ulora:latency_ms_p95"), "ulora:asked"),
    "latency_ratio_p95": _Series(("ulora:asked", "ulora:latency_ms_p95", "ulora:latency_ratio_p95"), "ulora:asked"),
    "accuracy": _Series(("ulora:labelled", "ulora:accuracy"), "ulora:labelled"),
    "ood_auroc": _Series(("ulora:labelled", "ulora:labelled_ood", "ulora:ood_auroc"), "ulora:labelled_ood"),
}


def alert_rules(rules: tuple[GuardRule, ...], digest: str) -> str:
    """The text of a rule file.

    Args:
        digest: of the policy, which the file names.
    """
    head = [
        f"# Written by `ulora policy prometheus` from the policy {digest}.",
        "# Plain rates over a window; the guard judges by counts, and is sure of what it says.",
        *(f"# Not here, as replicas have no metric of it: {rule}." for rule in rules if rule.metric not in _SERIES),
    ]
    return "\n".join([*head, yaml.safe_dump(rule_groups(rules), sort_keys=False, allow_unicode=True, width=120)])


def rule_groups(rules: tuple[GuardRule, ...]) -> dict[str, Any]:
    """The content of a rule file. Metrics that replicas do not have are left out."""
    known = tuple(rule for rule in rules if rule.metric in _SERIES)
    found = [*_records(known), *(alert for bands in Bands.of(known) for alert in _alerts(bands))]
    return {"groups": [{"name": "ulora-guard", "interval": "1m", "rules": found}] if found else []}


def _records(rules: tuple[GuardRule, ...]) -> Iterator[dict[str, str]]:
    needed = {name for rule in rules for name in _SERIES[rule.metric].needs}
    for name, expression in _RECORDED.items():
        if name in needed:
            yield {"record": name, "expr": expression}
    for metric in dict.fromkeys(rule.metric for rule in rules if rule.is_relative):
        yield {"record": f"ulora:{metric}:against_stable", "expr": _against_stable(f"ulora:{metric}")}


def _alerts(bands: Bands) -> Iterator[dict[str, Any]]:
    for rule, deeper in zip(bands.rules, (*bands.rules[1:], None), strict=True):
        yield {
            "alert": _name(rule),
            "expr": _condition(rule, deeper),
            "for": _FIRES_AFTER,
            "labels": _labels(rule),
            "annotations": _annotations(rule),
        }


def _condition(rule: GuardRule, deeper: GuardRule | None) -> str:
    beyond, before = ("<", ">=") if rule.wants_more else (">", "<=")
    value = f"{_series(rule)} {beyond} {exact(_edge(rule))}"
    if deeper:
        value = f"({value}) {before} {exact(_edge(deeper))}"
    return f"{value} and {_SERIES[rule.metric].count} >= {max(_LEAST, rule.min_n)}"


def _series(rule: GuardRule) -> str:
    return f"ulora:{rule.metric}" + (":against_stable" if rule.is_relative else "")


def _edge(rule: GuardRule) -> float:
    """Where the band begins that counts."""
    return rule.bound - rule.min_effect if rule.wants_more else rule.bound + rule.min_effect


def _name(rule: GuardRule) -> str:
    words = "".join(word.capitalize() for word in rule.metric.split("_"))
    return f"Ulora{words}{'Low' if rule.wants_more else 'High'}{'AgainstStable' if rule.is_relative else ''}"


def _labels(rule: GuardRule) -> dict[str, str]:
    tried = {"dry_run": "true"} if rule.dry_run else {}
    severity = "critical" if rule.severity == "rollback" else "warning"
    return {"severity": severity, "guard": rule.severity, "bound": exact(rule.bound), **tried}


def _annotations(rule: GuardRule) -> dict[str, str]:
    who = "{{ $labels.version }} ({{ $labels.arm }} of {{ $labels.channel }}, {{ $labels.model }})"
    sign, stable = ("below" if rule.wants_more else "above"), (" x stable's" if rule.is_relative else "")
    told = f"{rule.metric} of {who} is {{{{ $value | humanize }}}}{stable}, {sign} {exact(rule.bound)}"
    why = rule.why.replace("{{", "{{`{{`}}")  # a text, and no template
    return {"summary": told, "description": why or f"The guard's rule is to {ACTIONS[rule.severity]}."}

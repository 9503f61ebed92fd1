"""A policy's section `guard`: rules on what is observed of a version that serves, and the bands that they make.

The rules on one metric divide its values into bands. Each bound begins a band that reaches to the next rule's bound, or
to the end; what is before the first bound passes. So there is no gap, and what would overlap is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from registry.evidence.metrics import did_you_mean
from registry.evidence.number_text import exact
from registry.evidence.rule import Bound, MisplacedValue, PolicyPart, Rule

Severity = Literal["warn", "hold", "rollback"]
SEVERITIES: tuple[Severity, ...] = ("warn", "hold", "rollback")
"""The mildest first."""
ACTIONS: dict[Severity, str] = {"warn": "warn", "hold": "hold", "rollback": "roll back"}
Family = Literal["errors", "accuracy", "latency", ""]
MAX_RULES = 100
_GATE_ONLY = ("max_increase", "max_decrease", "per", "judge", "confidence", "device", "runtime", "machine")
_BELOW, _ABOVE = ("min", "min_ratio"), ("max", "max_ratio")


@dataclass(frozen=True)
class GuardMetric:
    """What the guard can observe.

    Attributes:
        family: whose share of the trial's allowed error its rules spend, see `Alpha`; empty: it is no matter of chance.
        bounds: those that rules on it take.
        top: its values lie between 0 and this.
    """

    family: Family
    bounds: tuple[str, ...]
    top: float = math.inf


GUARD_METRICS = {
    "accuracy": GuardMetric("accuracy", _BELOW, 1),
    "error_rate": GuardMetric("errors", _ABOVE, 1),
    "flagged_rate": GuardMetric("errors", (*_BELOW, *_ABOVE), 1),
    "ood_auroc": GuardMetric("accuracy", _BELOW, 1),
    "latency_ms_p95": GuardMetric("latency", ("max",)),
    "latency_ratio_p95": GuardMetric("latency", ("max",)),
    "adapter_memory_mb": GuardMetric("", _ABOVE),
}
"""Of one arm of a trial. `accuracy`: right labels of those that came back. `error_rate`, `flagged_rate`: units with an
error, or with an image called out-of-distribution, of all asked. `ood_auroc`: of the flag, from labels.
`latency_ms_p95`: of requests. `latency_ratio_p95`: of computing, divided by stable's. `adapter_memory_mb`: of the
largest adapter."""


def _check_guard_metric(name: str) -> str:
    if name not in GUARD_METRICS:
        raise ValueError(f"the guard does not observe {name!r}{did_you_mean(name, GUARD_METRICS)}")
    return name


class GuardRule(Rule):
    """A rule with exactly one bound on what the guard observes. The fields of gates that mean nothing here are refused.

    Attributes:
        metric: one of `GUARD_METRICS`.
        min_ratio: the smallest allowed value divided by that of the trial's stable arm at the same time.
        max_ratio: the largest one.
        min_n: with fewer units the rule decides nothing.
        severity: what follows beyond the bound. `rollback`: the channel goes back. `hold`: the trial does not go on.
            `warn`: an alert.
        min_effect: it counts only as far beyond the bound, in the bound's unit, however sure it is.
        missing: what no data means. `hold`: the trial waits (a rule that only warns says so, and nothing waits).
            `zero`: the value counts as 0, e.g. of errors that nobody reports.
        dry_run: it is judged and told, and nothing follows.
    """

    BOUNDS: ClassVar[tuple[str, ...]] = (*_BELOW, *_ABOVE)

    metric: Annotated[str, Field(max_length=100), AfterValidator(_check_guard_metric)]
    min_ratio: Bound | None = None
    max_ratio: Bound | None = None
    severity: Severity
    min_effect: Annotated[Bound, Field(ge=0)] = 0.0
    missing: Literal["hold", "zero"] = "hold"
    dry_run: bool = False

    @property
    def bound(self) -> float:
        """The value at which the rule's band begins."""
        return float(getattr(self, self.kind))

    @property
    def is_relative(self) -> bool:
        """Whether the value is divided by that of the stable arm."""
        return self.kind in ("min_ratio", "max_ratio")

    @property
    def wants_more(self) -> bool:
        """Whether what is below the bound is worse."""
        return self.kind in _BELOW

    @property
    def family(self) -> Family:
        """Whose share of the allowed error the rule spends."""
        return GUARD_METRICS[self.metric].family

    def is_broken_by(self, value: float) -> bool:
        """Whether a value, or ratio, is beyond the bound. One at the bound is not."""
        return value < self.bound if self.wants_more else value > self.bound

    def document(self) -> dict[str, Any]:
        """The rule as JSON, without the fields that are as if left out."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def __str__(self) -> str:
        stable = " x stable" if self.is_relative else ""
        return f"{self.metric} {'>=' if self.wants_more else '<='} {exact(self.bound)}{stable}, else {self.consequence}"

    @property
    def consequence(self) -> str:
        """What follows beyond the bound, in words."""
        effect = f" if by {exact(self.min_effect)} or more" if self.min_effect else ""
        return f"{ACTIONS[self.severity]}{effect}" + (" (dry run)" if self.dry_run else "")

    @field_validator(*_GATE_ONLY, mode="before")
    @classmethod
    def _is_no_field_of_gates(cls, value: object, info: ValidationInfo) -> object:
        raise ValueError(
            f"`{info.field_name}` is for gates: a rule of the guard is about all traffic of an arm, and its certainty "
            f"comes from `trials.alpha`; it takes {', '.join(FIELDS)}"
        )

    @model_validator(mode="after")
    def _has_a_bound_that_can_be_crossed(self) -> Self:
        metric = GUARD_METRICS[self.metric]
        if self.kind not in metric.bounds:
            said = " or ".join(f"`{name}`" for name in metric.bounds)
            if self.kind == "measured":
                raise ValueError(f"a rule of the guard has a bound: {self.metric} takes {said}")
            raise MisplacedValue((self.kind,), f"{self.metric} takes {said} here")
        top = math.inf if self.is_relative else metric.top
        if not 0 < self.bound < top:
            between = f"more than 0 and less than {top:g}" if top < math.inf else "more than 0"
            raise MisplacedValue((self.kind,), f"{exact(self.bound)} can't be crossed: a bound is {between}")
        if not (self.min_effect < self.bound if self.wants_more else self.bound + self.min_effect < top):
            raise MisplacedValue(("min_effect",), f"no value is {exact(self.min_effect)} beyond {exact(self.bound)}")
        return self

    @model_validator(mode="after")
    def _takes_no_data_for_no_harm(self) -> Self:
        if self.missing == "zero" and self.wants_more:
            raise MisplacedValue(("missing",), "no data would count as 0, which is beyond a lower bound: use `hold`")
        return self


FIELDS = tuple(name for name in GuardRule.model_fields if name not in _GATE_ONLY)
"""What a rule of the guard takes."""


@dataclass(frozen=True)
class Bands:
    """The rules on one metric, on one side of what passes, with the bound that is crossed first at the front."""

    rules: tuple[GuardRule, ...]

    @classmethod
    def of(cls, rules: Iterable[GuardRule]) -> tuple[Bands, ...]:
        """The bands of all rules. Those that are only tried (`dry_run`) have bands of their own."""
        groups: dict[tuple[object, ...], list[GuardRule]] = {}
        for rule in rules:
            groups.setdefault((rule.metric, rule.kind, rule.dry_run), []).append(rule)
        return tuple(cls(tuple(sorted(group, key=_depth))) for group in groups.values())

    @property
    def first(self) -> GuardRule:
        """The rule at whose bound passing ends."""
        return self.rules[0]

    def rule_for(self, value: float) -> GuardRule | None:
        """The rule in whose band a value is; None if it passes."""
        return next((rule for rule in reversed(self.rules) if rule.is_broken_by(value)), None)

    def spends_error(self) -> bool:
        """Whether it may roll back by chance.

        Its rules need no more than one share of the allowed error together: the deeper ones are tested only where the
        one before them was broken, and whoever meets a bound meets all that are deeper (tests in a fixed order; W.
        Maurer, L. Hothorn, W. Lehmacher, 1995).
        """
        return any(rule.severity == "rollback" and rule.family and not rule.dry_run for rule in self.rules)

    def __str__(self) -> str:
        ends = [*(exact(rule.bound) for rule in self.rules), ""]
        below, beyond = ("<", ">=") if self.first.wants_more else (">", "<=")
        bands = [f"{beyond} {ends[0]} pass"]
        for rule, end, following in zip(self.rules, ends, ends[1:], strict=False):
            low, high = (following, end) if rule.wants_more else (end, following)
            bands.append(f"{f'{low}–{high}' if following else f'{below} {end}'} {rule.consequence}")
        named = f"{self.first.metric} / stable's" if self.first.is_relative else self.first.metric
        return f"{named}: {' | '.join(reversed(bands) if self.first.wants_more else bands)}"


def _depth(rule: GuardRule) -> float:
    return -rule.bound if rule.wants_more else rule.bound


class GuardPolicy(PolicyPart):
    """The section `guard`. The same rules hold in every channel."""

    rules: Annotated[tuple[GuardRule, ...], Field(max_length=MAX_RULES)]

    def document(self) -> dict[str, Any]:
        """The section as JSON, without the fields that are as if left out."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @model_validator(mode="after")
    def _divides_each_metric_into_bands(self) -> Self:
        places = {id(rule): index for index, rule in enumerate(self.rules)}
        found = Bands.of(self.rules)
        for bands in found:
            for milder, deeper in pairwise(bands.rules):
                _check_order(milder, deeper, places)
        _check_that_something_passes(found, places)
        return self


def _check_order(milder: GuardRule, deeper: GuardRule, places: dict[int, int]) -> None:
    if milder.bound == deeper.bound:
        at = max(places[id(milder)], places[id(deeper)])
        other = min(places[id(milder)], places[id(deeper)])
        raise MisplacedValue(("rules", at, deeper.kind), f"{deeper.metric} has this bound already, in rules.{other}")
    if SEVERITIES.index(deeper.severity) < SEVERITIES.index(milder.severity):
        raise MisplacedValue(
            ("rules", places[id(deeper)], "severity"),
            f"nobody reaches this band: rules.{places[id(milder)]} begins before it, at {exact(milder.bound)}, and is "
            f"more severe ({milder.severity})",
        )


def _check_that_something_passes(found: Sequence[Bands], places: dict[int, int]) -> None:
    firsts = {(bands.first.metric, bands.first.kind, bands.first.dry_run): bands.first for bands in found}
    for (metric, kind, dry_run), upper in firsts.items():
        lower = firsts.get((metric, kind.replace("max", "min"), dry_run))
        if lower and lower.bound > upper.bound:
            raise MisplacedValue(
                ("rules", places[id(upper)], kind),
                f"no {metric} passes: rules.{places[id(lower)]} asks for {exact(lower.bound)} or more",
            )

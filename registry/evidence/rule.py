"""A policy's rule on one metric, with which gates judge what was measured. The guard's rules are of this type too."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from registry.evidence.machine_asked import MachineAsked
from registry.evidence.metrics import RATIOS, check_metric, is_time
from registry.evidence.paired import PAIRED_METRICS

DEFAULT_CONFIDENCE = 0.95
"""One-sided: of what `judge: bound` looks at where a rule does not say."""

KEPT = "kept"
"""The validation context of a policy that has judged: the benchmarks of its metrics need not be installed here."""

Bound = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=2000)]


def _check_metric(name: str, info: ValidationInfo) -> str:
    return name if info.context == KEPT else check_metric(name)


MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,99}$"), AfterValidator(_check_metric)]


class MisplacedValue(ValueError):
    """A value that is wrong beside others. `place` says where it stands, below the part that is checked."""

    def __init__(self, place: tuple[int | str, ...], problem: str) -> None:
        super().__init__(problem)
        self.place = place


class PolicyPart(BaseModel):
    # Unknown fields are refused, unlike in stored documents: a rule with a mistyped field would check nothing.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Rule(PolicyPart):
    """A rule on one metric, with at most one bound; without one, the metric must have been measured and be a number.

    Attributes:
        metric: the metric's name, e.g. `accuracy`; one that an installed benchmark reports.
        min: the smallest allowed value.
        max: the largest allowed value.
        max_increase: how much it may be above stable's value, in the metric's unit.
        max_decrease: how much it may be below stable's value.
        per: `all` checks the aggregate over all targets; `target` each target; `worst` the worst target; `mean` the
            mean over the targets.
        judge: what must meet the bound. `value`: the measured value. `bound`: the end of its one-sided interval on the
            bad side, so that a version which is worse than the bound passes with a probability of about
            1 - `confidence` at most. `paired`: the same of the difference to stable on the images that both answered,
            against `max_decrease` or `max_increase`.
        confidence: of the one-sided interval that `bound` and `paired` look at, more than 0.5; 0.95 if left out.
        min_n: with fewer samples the check can't pass: it is inconclusive, or fails if they already decide against it.
        device: counts only what was measured on this device, e.g. `cpu`; any device if left out.
        runtime: counts only what this runtime computed, e.g. `torch-fp32`; any runtime if left out.
        machine: counts only times that were measured on such a machine, else the check is inconclusive; any machine if
            left out.
        why: the reason for the rule, shown when it refuses.
    """

    BOUNDS: ClassVar[tuple[str, ...]] = ("min", "max", "max_increase", "max_decrease")
    """The fields that are bounds."""

    metric: MetricName
    min: Bound | None = None
    max: Bound | None = None
    max_increase: Annotated[Bound, Field(ge=0)] | None = None
    max_decrease: Annotated[Bound, Field(ge=0)] | None = None
    per: Literal["all", "target", "worst", "mean"] = "all"
    judge: Literal["value", "bound", "paired"] = "value"
    confidence: float | None = Field(default=None, gt=0.5, lt=1)
    min_n: int = Field(default=0, ge=0, le=10**9)
    device: str | None = Field(default=None, min_length=1, max_length=200)
    runtime: str | None = Field(default=None, min_length=1, max_length=200)
    machine: MachineAsked | None = None
    why: Text = ""

    @property
    def kind(self) -> str:
        """The name of the bound that is set, one of `BOUNDS`, or `measured` for none."""
        return next((name for name in self.BOUNDS if getattr(self, name) is not None), "measured")

    @property
    def is_relative(self) -> bool:
        """Whether the rule compares with the stable version."""
        return self.kind in ("max_increase", "max_decrease")

    @property
    def is_ratio(self) -> bool:
        """Whether the metric itself compares with the stable version: it has to be measured against that one."""
        return self.metric in RATIOS

    @property
    def wants_more(self) -> bool:
        """Whether a larger value is a better one, as far as this rule can tell."""
        return self.kind in ("min", "max_decrease")

    @property
    def margin(self) -> float:
        """How much worse than stable a relative rule allows."""
        return self.max_decrease or self.max_increase or 0.0

    @property
    def allowance(self) -> float:
        """What a relative rule adds to stable's value to get its bound."""
        return -self.margin if self.wants_more else self.margin

    @property
    def one_sided(self) -> float:
        """The confidence with which a version that passes `judge: bound` or `paired` is not worse than the bound."""
        return DEFAULT_CONFIDENCE if self.confidence is None else self.confidence

    def document(self) -> dict[str, Any]:
        """The rule as JSON, without the fields that are not set."""
        return without_defaults(self.model_dump(mode="json", exclude_none=True))

    def __str__(self) -> str:
        signs = {"min": ">=", "max": "<=", "max_increase": "<= stable +", "max_decrease": ">= stable -"}
        asked = "measured" if self.kind == "measured" else f"{signs[self.kind]} {getattr(self, self.kind):g}"
        scope = {"all": "", "target": " for every target", "worst": " for the worst target", "mean": " on average"}
        places = [str(each) for each in (self.device, self.runtime, self.machine) if each]
        place = f" on {', '.join(places)}" if places else ""
        place += " against stable" if self.is_ratio else ""
        sure = f" with {100 * self.one_sided:g}% confidence" if self.judge != "value" else ""
        sure += " on the same images" if self.judge == "paired" else ""
        return f"{self.metric} {asked}{scope[self.per]}{place}{sure}"

    @model_validator(mode="after")
    def _has_one_bound(self) -> Self:
        if len([name for name in self.BOUNDS if getattr(self, name) is not None]) > 1:
            raise ValueError(f"a rule has at most one of {', '.join(self.BOUNDS)}; write one rule for each")
        return self

    @model_validator(mode="after")
    def _asks_of_times_what_they_have(self) -> Self:
        if self.is_ratio and (self.is_relative or self.per != "all"):
            raise ValueError(f"{self.metric} is compared with stable already, over all images: it takes `min` or `max`")
        if self.machine and not is_time(self.metric):
            raise ValueError(f"`machine` is for times, and {self.metric} does not depend on it")
        return self

    @model_validator(mode="after")
    def _judges_what_has_an_interval(self) -> Self:
        if self.judge == "value" and self.confidence is not None:
            raise ValueError("`confidence` is for `judge: bound` and `paired`; `judge: value` looks at no interval")
        if self.judge == "bound" and self.kind not in ("min", "max"):
            raise ValueError("`judge: bound` needs `min` or `max`")
        if self.judge == "paired" and not self.is_relative:
            raise ValueError("`judge: paired` needs `max_decrease` or `max_increase`")
        if self.judge == "paired" and self.metric not in PAIRED_METRICS:
            raise ValueError(f"`judge: paired` is for {', '.join(sorted(PAIRED_METRICS))}")
        if self.judge != "value" and self.per not in ("all", "target"):
            raise ValueError(
                f"`judge: {self.judge}` is for `per: all` or `per: target`, which judges the worst one too"
            )
        if self.judge == "paired" and self.metric.startswith("ood_") and self.per != "target":
            raise ValueError("`judge: paired` is `per: target` here: each image has a score of every target's detector")
        return self


def without_defaults(rule: dict[str, Any]) -> dict[str, Any]:
    """A rule's JSON without the fields that later releases added, where they say what rules without them mean: the
    digests and verdicts of earlier releases stay right."""
    if rule.get("judge") == "value":
        del rule["judge"]
    for name in ("confidence", "machine"):
        if rule.get(name, 0) is None:
            del rule[name]
    if "machine" in rule:
        rule["machine"] = {name: value for name, value in rule["machine"].items() if value is not None}
    return rule

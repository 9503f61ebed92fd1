"""Gate policies: the rules that a version must meet before a channel may serve it. Data, not an expression language.

A policy is a YAML file (see docs/policy.md and `default_policy.yaml`). Errors name the line and the field.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from registry.errors import BadPolicy
from registry.evidence.machine_asked import MachineAsked
from registry.evidence.metrics import RATIOS, check_metric, did_you_mean, is_time
from registry.evidence.paired import PAIRED_METRICS
from registry.formats import canonical
from registry.formats.strict_yaml import BadYaml, StrictYaml
from registry.names import CHANNELS, VersionName, check_channel

MAX_POLICY = 256 * 1024
"""Bytes of the largest policy file."""
MAX_RULES = 1000
_BOUNDS = ("min", "max", "max_increase", "max_decrease")
_DEFAULT = "default_policy.yaml"
DEFAULT_CONFIDENCE = 0.95
"""One-sided: of what `judge: bound` looks at where a rule does not say."""

KEPT = "kept"
"""The validation context of a policy that has judged: the benchmarks of its metrics need not be installed here."""

Bound = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=2000)]


def _check_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text} has no time zone: write 2026-12-24T12:00:00+01:00")
    return text


FreezeTime = Annotated[str, Field(max_length=40), AfterValidator(_check_time)]


def _check_metric(name: str, info: ValidationInfo) -> str:
    return name if info.context == KEPT else check_metric(name)


MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,99}$"), AfterValidator(_check_metric)]


class _PolicyPart(BaseModel):
    # Unknown fields are refused, unlike in stored documents: a rule with a mistyped field would check nothing.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Rule(_PolicyPart):
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
        """The name of the bound that is set: `min`, `max`, `max_increase`, `max_decrease`, or `measured` for none."""
        return next((name for name in _BOUNDS if getattr(self, name) is not None), "measured")

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
        return _without_defaults(self.model_dump(mode="json", exclude_none=True))

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
        if len([name for name in _BOUNDS if getattr(self, name) is not None]) > 1:
            raise ValueError(f"a rule has at most one of {', '.join(_BOUNDS)}; write one rule for each")
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


Rules = Annotated[tuple[Rule, ...], Field(max_length=MAX_RULES)]
Suffix = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,64}$")]
Flavor = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]


class FreezeWindow(_PolicyPart):
    """A time in which nothing is promoted, e.g. a holiday. `begin` (in files `from`) counts, `to` does not."""

    begin: FreezeTime = Field(alias="from")
    to: FreezeTime
    why: Text = ""

    def holds(self, now: datetime) -> bool:
        """Whether it is now."""
        return datetime.fromisoformat(self.begin) <= now < datetime.fromisoformat(self.to)

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        if datetime.fromisoformat(self.begin) >= datetime.fromisoformat(self.to):
            raise ValueError(f"it ends ({self.to}) before it begins ({self.begin})")
        return self


class ChannelPolicy(_PolicyPart):
    """The rules of one channel.

    Attributes:
        requires: a channel in which the version must have been stable before.
        defaults: rules for every version.
        by_suffix: rules for versions whose suffix has this word.
        by_flavor: all rules for versions of this flavor, in the place of the two above, e.g. for snapshots (`files`).
        rollback_requests: whether a request in MLflow may roll the channel back.
        approvals: how many different people have to approve a version (`ulora approve`).
        freeze: times in which nothing is promoted, unless by force. Rollbacks are always possible.
    """

    requires: str | None = None
    defaults: Rules = ()
    by_suffix: dict[Suffix, Rules] = Field(default_factory=dict, max_length=100)
    by_flavor: dict[Flavor, Rules] = Field(default_factory=dict, max_length=100)
    rollback_requests: bool = True
    approvals: int = Field(default=0, ge=0, le=100)
    freeze: tuple[FreezeWindow, ...] = Field(default=(), max_length=1000)

    @model_validator(mode="after")
    def _has_a_floor_beside_each_pair(self) -> Self:
        groups = [self.defaults, *((*self.defaults, *rules) for rules in self.by_suffix.values())]
        for rules in (*groups, *self.by_flavor.values()):
            absolute = {(rule.metric, rule.kind) for rule in rules}
            for rule in rules:
                floor = "min" if rule.wants_more else "max"
                if rule.judge == "paired" and (rule.metric, floor) not in absolute:
                    raise ValueError(
                        f"{rule.metric} has a rule against stable and no `{floor}` beside it: a release that is a "
                        "little worse than the one before it, again and again, would pass for ever"
                    )
        return self


class Policy(_PolicyPart):
    """The rules of all channels."""

    format: Literal[1]
    channels: dict[str, ChannelPolicy]

    def rules_for(self, channel: str, version: VersionName, flavor: str = "") -> tuple[Rule, ...]:
        """The rules for a version in a channel.

        These are the rules of its flavor, if the channel has any for it. Else they are the defaults and the rules of
        the suffix's words, except that a `min` or `max` of a suffix replaces the `min` or `max` of the defaults for the
        same metric that is judged in the same way. Scratch channels (`drill-…`) have no rules.
        """
        asked = self._of(channel)
        if flavor in asked.by_flavor:
            return tuple(dict.fromkeys(asked.by_flavor[flavor]))
        special = [rule for word in sorted(version.suffix_words) for rule in asked.by_suffix.get(word, ())]
        replaced = {(rule.metric, rule.kind, rule.judge) for rule in special if rule.kind in ("min", "max")}
        kept = [rule for rule in asked.defaults if (rule.metric, rule.kind, rule.judge) not in replaced]
        return tuple(dict.fromkeys([*kept, *special]))

    def required_channel(self, channel: str) -> str | None:
        """The channel in which a version must have been stable before this one takes it, or None."""
        return self._of(channel).requires

    def may_roll_back_by_request(self, channel: str) -> bool:
        """Whether a request in MLflow may roll a channel back."""
        return self._of(channel).rollback_requests

    def approvals(self, channel: str) -> int:
        """How many different people have to approve a version for a channel."""
        return self._of(channel).approvals

    def frozen(self, channel: str, now: datetime) -> FreezeWindow | None:
        """The freeze of a channel that holds now, the one that ends last; None if there is none."""
        holding = [window for window in self._of(channel).freeze if window.holds(now)]
        return max(holding, key=lambda window: datetime.fromisoformat(window.to), default=None)

    @property
    def digest(self) -> str:
        """The sha256 of the policy's content; comments and order in the file do not count."""
        return canonical.sha256(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The policy's content as canonical JSON, which `kept_policy.read` reads; its sha256 is the digest."""
        document = self.model_dump(mode="json")
        for rule in _rules_in(document):
            _without_defaults(rule)
        for channel in document["channels"].values():
            if not channel["by_flavor"]:  # an older release, which did not know it, computes the same digest
                del channel["by_flavor"]
            # As before there were these fields: the digests of earlier releases stay right.
            for name, default in (("rollback_requests", True), ("approvals", 0), ("freeze", [])):
                if channel[name] == default:
                    del channel[name]
        return canonical.encode(document)

    def _of(self, channel: str) -> ChannelPolicy:
        return self.channels.get(check_channel(channel), ChannelPolicy())

    @model_validator(mode="after")
    def _covers_the_channels(self) -> Self:
        if sorted(self.channels) != sorted(CHANNELS):
            names = " and ".join(CHANNELS)
            unknown = [name for name in self.channels if name not in CHANNELS]
            meant = f"; no channel is called {unknown[0]!r}{did_you_mean(unknown[0], CHANNELS)}" if unknown else ""
            raise ValueError(f"channels must be exactly {names}; `{{}}` is a channel without rules{meant}")
        for name, channel in self.channels.items():
            if channel.requires is not None and (name, channel.requires) != ("production", "staging"):
                raise ValueError(f"{name} can't require {channel.requires!r}; only production can, and only staging")
        return self


def _rules_in(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for channel in document["channels"].values():
        for rules in (channel["defaults"], *channel["by_suffix"].values(), *channel["by_flavor"].values()):
            yield from rules


def _without_defaults(rule: dict[str, Any]) -> dict[str, Any]:
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


def load_policy(path: Path | None = None) -> Policy:
    """Read a policy file; the default policy if `path` is None.

    Raises:
        BadPolicy: it can't be read, or does not follow the format; the message names the line and the field.
    """
    if path is None:
        return parse_policy(resources.files(__package__).joinpath(_DEFAULT).read_bytes(), f"policy {_DEFAULT}")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_POLICY + 1)
    except OSError as error:
        raise BadPolicy(f"policy {path} can't be read: {error.strerror}", hint="check the path") from error
    return parse_policy(data, f"policy {path}")


def parse_policy(data: bytes, what: str = "the policy") -> Policy:
    """Read a policy's bytes; `what` names it in errors.

    Raises:
        BadPolicy: it does not follow the format; the message names the line and the field.
    """
    if len(data) > MAX_POLICY:
        raise _bad(what, f"more than the {MAX_POLICY} bytes that are allowed")
    try:
        read = StrictYaml.read(data)
        text = canonical.encode(read.value)
    except BadYaml as error:
        raise _bad(what, str(error), error.line) from error
    except (ValueError, TypeError, OverflowError) as error:
        raise _bad(what, f"a value can't be read: {error}") from error
    if not isinstance(read.value, dict):
        raise _bad(what, "a policy is a mapping with `format` and `channels`")
    try:
        return Policy.model_validate_json(text)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        # Where a field is missing, a mistyped one beside it is the mistake.
        problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
        place = tuple(part for part in problem["loc"] if part != "[key]")
        said = _said(problem["type"], place, problem["msg"])
        field = ".".join(map(str, place))
        raise _bad(what, f"{field}: {said}" if field else said, read.line_of(place)) from error


def _said(kind: str, place: tuple[Any, ...], message: str) -> str:
    """What is wrong at a place, with a suggestion where a name is unknown."""
    if kind == "extra_forbidden":
        parts: dict[int, type[BaseModel]] = {1: Policy, 3: ChannelPolicy}
        part = MachineAsked if "machine" in place[3:-1] else parts.get(len(place), Rule)
        return f"there is no field {str(place[-1])[:100]!r} here{did_you_mean(str(place[-1]), part.model_fields)}"
    if place[-1:] == ("per",):
        return f"{message} (`target` judges every target by itself; a rule for one target alone there is not)"
    return message.removeprefix("Value error, ")


def _bad(what: str, problem: str, line: int | None = None) -> BadPolicy:
    place = f", line {line}" if line else ""
    return BadPolicy(f"{what}{place}: {problem}", hint="docs/policy.md has the format and an example to copy")

"""Policies: the rules that a version must meet before a channel may serve it, and those by which the guard judges a
trial of it. Data, not an expression language.

A policy is a YAML file (see docs/policy.md and `default_policy.yaml`). Errors name the line and the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from registry.errors import BadInput, BadPolicy
from registry.evidence.guard_rules import FIELDS, Bands, GuardPolicy, GuardRule
from registry.evidence.machine_asked import MachineAsked
from registry.evidence.metrics import did_you_mean
from registry.evidence.rule import MisplacedValue, PolicyPart, Rule, Text, without_defaults
from registry.evidence.trial_policy import DEFAULT_PLAN, Alpha, Horizon, Plan, Step, TrialPolicy
from registry.formats import canonical
from registry.formats.strict_yaml import BadYaml, FormatNumber, StrictYaml
from registry.names import CHANNELS, VersionName, check_channel

MAX_POLICY = 256 * 1024
"""Bytes of the largest policy file."""
MAX_RULES = 1000
SHIPPED = {"default": "default_policy.yaml", "aads": "aads_policy.yaml"}
"""Files of the policies that ship, by their names."""


def _check_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text} has no time zone: write 2026-12-24T12:00:00+01:00")
    return text


FreezeTime = Annotated[str, Field(max_length=40), AfterValidator(_check_time)]
Rules = Annotated[tuple[Rule, ...], Field(max_length=MAX_RULES)]
Suffix = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,64}$")]
Flavor = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]


class FreezeWindow(PolicyPart):
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


class ChannelPolicy(PolicyPart):
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


class Policy(PolicyPart):
    """The rules of all channels, and how the guard judges trials.

    Attributes:
        trials, guard: None if the policy says nothing of it: then what ships holds, as `trial_policy`, `trial_plan`,
            `guard_rules` and `in_full` answer.
    """

    format: FormatNumber
    channels: dict[str, ChannelPolicy]
    trials: TrialPolicy | None = None
    guard: GuardPolicy | None = None

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

    def guard_rules(self) -> tuple[GuardRule, ...]:
        """What the guard judges a version that serves by."""
        return (self.guard or _shipped_guard()).rules

    def trial_policy(self) -> TrialPolicy:
        """The section `trials`, with the plans that ship where it has none."""
        said = self.trials or _shipped_trials()
        return said if said.plans is not None else said.model_copy(update={"plans": _shipped_trials().plans})

    def trial_plan(self, name: str = DEFAULT_PLAN) -> Plan:
        """A plan of trials.

        Raises:
            BadInput: no plan has this name.
        """
        plans = self.trial_policy().plans or {}
        if name not in plans:
            raise BadInput(
                f"the policy has no plan {name[:100]!r}{did_you_mean(name, plans) if plans else ''}",
                hint="`ulora policy show` has all",
            )
        return plans[name]

    def alpha_of(self, rule: GuardRule) -> float:
        """With what probability a rule may roll back a trial of a version that is not worse than its bound.

        The bands of one family that may roll back share what `trials.alpha` gives it (Bonferroni's inequality); the
        rules of one metric's bands do not: see `Bands.spends_error`. 1 for what is no matter of chance.
        """
        if not rule.family:
            return 1.0
        spending = [bands for bands in Bands.of(self.guard_rules()) if bands.spends_error()]
        sharing = sum(bands.first.family == rule.family for bands in spending)
        return float(getattr(self.trial_policy().alpha, rule.family)) / max(1, sharing)

    def in_full(self) -> Policy:
        """The policy with both sections as they hold: what decisions keep, so that they can be computed again after
        another release ships others."""
        return self.model_copy(update={"trials": self.trial_policy(), "guard": GuardPolicy(rules=self.guard_rules())})

    @property
    def digest(self) -> str:
        """The sha256 of the policy's content; comments and order in the file do not count."""
        return canonical.sha256(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The policy's content as canonical JSON, which `kept_policy.read` reads; its sha256 is the digest."""
        document = self.model_dump(mode="json")
        for rule in _rules_in(document):
            without_defaults(rule)
        for channel in document["channels"].values():
            if not channel["by_flavor"]:  # an older release, which did not know it, computes the same digest
                del channel["by_flavor"]
            # As before there were these fields: the digests of earlier releases stay right.
            for name, default in (("rollback_requests", True), ("approvals", 0), ("freeze", [])):
                if channel[name] == default:
                    del channel[name]
        for name, section in (("trials", self.trials), ("guard", self.guard)):
            if section is None:
                del document[name]
            else:  # without its defaults, which therefore never change
                document[name] = section.document()
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


@cache
def _shipped() -> Policy:
    return load_policy()


def _shipped_trials() -> TrialPolicy:
    return _shipped().trials or TrialPolicy(plans={})


def _shipped_guard() -> GuardPolicy:
    return _shipped().guard or GuardPolicy(rules=())


def load_policy(path: Path | None = None) -> Policy:
    """Read a policy file; the default policy if `path` is None.

    Raises:
        BadPolicy: it can't be read, or does not follow the format; the message names the line and the field.
    """
    if path is None:
        return parse_policy(policy_that_ships("default"), f"policy {SHIPPED['default']}")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_POLICY + 1)
    except OSError as error:
        raise BadPolicy(f"policy {path} can't be read: {error.strerror}", hint="check the path") from error
    return parse_policy(data, f"policy {path}")


def policy_that_ships(name: str) -> bytes:
    """The bytes of a policy that ships, by its name in `SHIPPED`."""
    return resources.files(__package__).joinpath(SHIPPED[name]).read_bytes()


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
        cause = problem.get("ctx", {}).get("error")
        place += cause.place if isinstance(cause, MisplacedValue) else ()
        said = _said(problem["type"], place, problem["msg"])
        field = ".".join(map(str, place))
        raise _bad(what, f"{field}: {said}" if field else said, read.line_of(place)) from error


def _said(kind: str, place: tuple[Any, ...], message: str) -> str:
    """What is wrong at a place, with a suggestion where a name is unknown."""
    if kind == "extra_forbidden":
        return f"there is no field {str(place[-1])[:100]!r} here{did_you_mean(str(place[-1]), _fields_at(place))}"
    if place[-1:] == ("per",) and kind == "literal_error":
        return f"{message} (`target` judges every target by itself; a rule for one target alone there is not)"
    return message.removeprefix("Value error, ")


def _fields_at(place: tuple[Any, ...]) -> Iterable[str]:
    """The fields that may stand where an unknown one does."""
    match place:
        case (_,):
            return Policy.model_fields
        case ("guard", _):
            return GuardPolicy.model_fields
        case ("guard", *_):
            return FIELDS
        case ("trials", _):
            return TrialPolicy.model_fields
        case ("trials", "alpha", _):
            return Alpha.model_fields
        case ("trials", "horizon", _):
            return Horizon.model_fields
        case ("trials", *_):
            return Step.model_fields
        case (_, _, _):
            return ChannelPolicy.model_fields
    return (MachineAsked if "machine" in place[3:-1] else Rule).model_fields


def _bad(what: str, problem: str, line: int | None = None) -> BadPolicy:
    place = f", line {line}" if line else ""
    return BadPolicy(f"{what}{place}: {problem}", hint="docs/policy.md has the format and an example to copy")

"""A policy's section `trials`: by which steps the guard gives a canary more traffic, how often it may err, and what a
trial's report asks of a version."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, RootModel, model_validator

from registry.evidence.number_text import points
from registry.evidence.rule import MisplacedValue, PolicyPart
from registry.formats.counts import counted

DEFAULT_PLAN = "default"
MAX_ALPHA = 0.05
"""The largest share of trials of an equal version that may be rolled back."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_LONGEST = 366 * _SECONDS["d"]


def seconds_of(duration: str) -> int:
    """The seconds of a duration such as `90s`, `30m`, `24h` or `7d`.

    Raises:
        ValueError: it is not one of those forms, or longer than 366 days.
    """
    found = _DURATION.fullmatch(duration)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds <= _LONGEST:
        raise ValueError("a duration is a whole number with its unit, such as 90s, 30m, 24h or 7d, and at most 366d")
    return seconds


def _check_duration(value: object) -> object:
    seconds_of(value if isinstance(value, str) else "")
    return value


def _check_percent(value: object) -> object:
    if isinstance(value, float) and value != round(value, 2):
        raise ValueError("a percent has two decimals at most")
    return value


Duration = Annotated[str, BeforeValidator(_check_duration)]
Percent = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False), BeforeValidator(_check_percent)]
PlanName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]


class Step(PolicyPart):
    """A step of a plan.

    Attributes:
        percent: of the traffic that the canary answers; 100: it becomes stable.
        hold: how long it keeps this share at least. Not at 100.
        min_units: how many units it has to be asked for at least before the next step. Not at 100.
        bake: at 100: how long the guard watches the version, and rolls it back, from then on.
    """

    percent: Percent
    hold: Duration | None = None
    # The units of an arm are marks in 65,536 places, so they never add up to more; the last ones take very many keys.
    min_units: int = Field(default=0, ge=0, le=50_000)
    bake: Duration | None = None

    @property
    def hold_seconds(self) -> int:
        """The seconds of `hold`; 0 without it."""
        return seconds_of(self.hold) if self.hold else 0

    @property
    def bake_seconds(self) -> int:
        """The seconds of `bake`; 0 without it."""
        return seconds_of(self.bake) if self.bake else 0

    def __str__(self) -> str:
        units = f" and {counted(self.min_units, 'unit')}" if self.min_units else ""
        time = f" for {self.hold}{units}" if self.hold else f", watched for {self.bake}" if self.bake else ""
        return f"{self.percent:g}%{time}"

    @model_validator(mode="after")
    def _has_what_its_share_needs(self) -> Self:
        if self.percent == 100 and self.hold:
            raise MisplacedValue(("hold",), "at 100 the trial has ended: `bake` says how long it is watched")
        if self.percent == 100 and self.min_units:
            raise MisplacedValue(("min_units",), "at 100 the trial has ended, and no step follows")
        if self.percent < 100 and self.bake:
            raise MisplacedValue(("bake",), "`bake` is for the time after 100: use `hold`")
        if self.percent < 100 and not self.hold:
            raise ValueError("a step below 100 needs `hold`: how long the canary keeps this share at least")
        return self


class Plan(RootModel[tuple[Step, ...]]):
    """The steps of a trial, upwards. One that does not end at 100 leaves the last step to a person."""

    model_config = ConfigDict(frozen=True, strict=True)

    root: Annotated[tuple[Step, ...], Field(min_length=1, max_length=100)]

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps, with growing percents."""
        return self.root

    def step_at(self, percent: float) -> Step | None:
        """The step that a canary with this share is at: the last one that does not give it more."""
        return next((step for step in reversed(self.steps) if step.percent <= percent), None)

    def step_after(self, percent: float) -> Step | None:
        """The first step that gives a canary more than this share; None if a person decides."""
        return next((step for step in self.steps if step.percent > percent), None)

    def __str__(self) -> str:
        return ", then ".join(map(str, self.steps))

    @model_validator(mode="after")
    def _goes_upwards(self) -> Self:
        for index, (before, step) in enumerate(pairwise(self.steps), 1):
            if step.percent <= before.percent:
                raise MisplacedValue((index, "percent"), f"{step.percent:g} is not above {before.percent:g} before it")
        return self


Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class Alpha(PolicyPart):
    """With what probability a trial of a version that is not worse may be rolled back, by what its rules are about.

    Attributes:
        errors: `error_rate` and `flagged_rate`.
        accuracy: `accuracy` and `ood_auroc`.
        latency: the latencies.
    """

    errors: Share = 0.02
    accuracy: Share = 0.02
    latency: Share = 0.01

    @model_validator(mode="after")
    def _is_small_in_all(self) -> Self:
        total = _sum(self.errors, self.accuracy, self.latency)
        if total > _sum(MAX_ALPHA):
            raise ValueError(f"{float(total):g} in all: more than the {MAX_ALPHA:g} that a trial may err")
        return self


def _sum(*shares: float) -> Fraction:
    """Of the numbers as people wrote them: .02 + .02 + .01 is .05, and as binary numbers a little more."""
    return sum((Fraction(repr(share)) for share in shares), Fraction(0))


class Horizon(PolicyPart):
    """When a trial's report judges for good, and what it asks then: declared before the trial, so that nobody chooses
    it by what is seen.

    Attributes:
        units: units of either version whose labels came back, from which on it judges.
        significance: the probability of finding a gain where there is none.
        min_accuracy_gain: how much more accurate the version has to be, as a share; or
        min_latency_gain: which part of stable's compute time it has to save.
        margin: how much less accurate it may be; what may be worse of the OOD flag.
        max_error_rate: the share of units with an error has to be below it.
    """

    units: int = Field(default=2500, ge=10, le=50_000)
    significance: Annotated[float, Field(gt=0, le=0.1, allow_inf_nan=False)] = 0.05
    min_accuracy_gain: Share = 0.005
    min_latency_gain: Share = 0.1
    margin: Share = 0.01
    max_error_rate: Share = 0.001

    def __str__(self) -> str:
        return (
            f"{self.units:,} labelled units of either version; accuracy up by {points(self.min_accuracy_gain)} or "
            f"compute time down by {100 * self.min_latency_gain:g}%, at p < {self.significance:g}; accuracy down by "
            f"{points(self.margin)} at most; errors below {100 * self.max_error_rate:g}%"
        )


class TrialPolicy(PolicyPart):
    """The section `trials`.

    Attributes:
        plans: by name; `default` is used where nobody names one. If left out, the plans that ship.
        max_hold: how long the guard waits for data or for a decision before it leaves the trial to a person.
        alpha: how often the guard may roll back a version that is not worse.
        horizon: when `canary report` judges for good, and by what.
    """

    plans: Annotated[dict[PlanName, Plan], Field(max_length=100)] | None = None
    max_hold: Duration = "72h"
    alpha: Alpha = Alpha()
    horizon: Horizon = Horizon()

    @property
    def max_hold_seconds(self) -> int:
        """The seconds of `max_hold`."""
        return seconds_of(self.max_hold)

    def document(self) -> dict[str, Any]:
        """The section as JSON, without the fields that are as if left out."""
        return self.model_dump(mode="json", exclude_defaults=True)

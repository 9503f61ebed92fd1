"""A trial: a version's time beside stable, as records keep it. No I/O.

In a `split` trial the canary answers a share of the keys. In a `shadow` trial stable answers all, and both versions
compute a share: the canary's weight is 0, so that a release that knows no trials serves stable only.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from registry.errors import BadInput, NotNow
from registry.formats.document import DocumentPart

TrialKind = Literal["split", "shadow"]
_STEPS = 100
"""The shares that a percent is divided into: a share has two decimals at most."""


class Trial(DocumentPart):
    """A canary's trial.

    Attributes:
        kind: one of `TrialKind`; a newer release may write others, which this one can read.
        salt: what decides, together with a request's key, which version answers.
        started_generation: the record that began it. Each later record of it begins another stage.
        plan: the plan of the policy by which the guard advances it.
        shadow_percent: in a shadow trial, the share of the requests that both versions compute.
    """

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    kind: str = Field(pattern=r"^[a-z-]{1,40}$")
    salt: str = Field(min_length=1, max_length=64)
    started_generation: int = Field(ge=1, lt=10**12)
    plan: str | None = Field(default=None, max_length=100)
    shadow_percent: float | None = Field(default=None, gt=0, le=100)

    def share(self, weight: float) -> str:
        """How much of the traffic takes part, for people: `10%`, `shadow 25%`; `weight` is the canary's."""
        percent = weight if self.shadow_percent is None else self.shadow_percent
        return f"{percent:g}%" if self.kind == "split" else f"{self.kind} {percent:g}%"


@dataclass(frozen=True)
class StartTrial:
    """How a trial begins.

    Attributes:
        percent: the share of the keys that the canary answers: more than 0 and less than 100; or, in a shadow trial,
            the share of the requests that both versions compute: up to 100.
        plan: the plan of the policy by which the guard advances it.
    """

    kind: TrialKind
    percent: float
    plan: str | None = None

    def __post_init__(self) -> None:
        """Raises: BadInput: the share is outside of these bounds, or has more than two decimals."""
        most = 100.0 if self.kind == "shadow" else 100.0 - 1 / _STEPS
        check_percent(self.percent, most)
        if self.plan is not None and not self.plan.strip():
            raise BadInput("the name of the plan is empty", hint="is a shell variable empty?")

    @property
    def weight(self) -> float:
        """The canary's share of the keys."""
        return 0.0 if self.kind == "shadow" else float(self.percent)

    def trial(self, generation: int) -> Trial:
        """A new trial, which begins with the record of this generation."""
        name = secrets.token_hex(16)
        shadow_percent = float(self.percent) if self.kind == "shadow" else None
        return Trial(
            id=name, kind=self.kind, salt=name, started_generation=generation, plan=self.plan,
            shadow_percent=shadow_percent,
        )  # fmt: skip


def check_percent(percent: float, most: float = 100.0) -> None:
    """Check a share of the traffic, in percent.

    Raises:
        BadInput: it is not above 0, above `most`, or has more than two decimals.
    """
    if not 0 < percent <= most or round(percent * _STEPS) / _STEPS != percent:
        raise BadInput(
            f"{percent:g}% is not a share for a trial", hint=f"more than 0, at most {most:g}, with at most two decimals"
        )


def check_share(trial: Trial | None, version: str, weight: float, percent: float) -> None:
    """Check the next share of a running trial; `weight` is the canary's now.

    Raises:
        NotNow: its kind is of a newer release.
        BadInput: the share is not larger than now, or not 100 in a shadow trial.
    """
    check_percent(percent)
    kind = trial.kind if trial else "split"
    if kind not in ("split", "shadow"):
        raise NotNow(f"this release knows no {kind} trial; nothing changed", hint="upgrade ulora-registry")
    if kind == "shadow" and percent != 100:
        raise BadInput(
            f"{version} answers nobody in its shadow trial, so it has no share to raise; nothing changed",
            hint="`ulora canary advance --to 100` makes it stable; a split trial is a new one",
        )
    if percent <= weight:
        raise BadInput(
            f"{version} has {weight:g}% already, and a share only grows; nothing changed",
            hint="a smaller share is a new trial: `ulora canary abort`, then `ulora canary start`",
        )

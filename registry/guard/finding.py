"""What the guard finds: one statement about a trial, with its outcome and the numbers that it rests on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from registry.formats.document import DocumentPart

Outcome = Literal["fail", "broken", "hold", "pass"]
OUTCOMES: tuple[Outcome, ...] = ("fail", "broken", "hold", "pass")
"""The one that counts most first. `fail`: the version is worse. `broken`: the trial can't tell. `hold`: it does not go
on, for now. `pass`: nothing is against it."""
MAX_REASON = 1000
_Number = Annotated[float, Field(allow_inf_nan=False)]


class GuardFinding(DocumentPart):
    """One statement.

    Attributes:
        about: what it is about, in words without numbers that change: the rule, or what was looked at.
        rule: the number of the rule in the policy, from 0; None for what no rule asks.
        dry_run: it is told, and nothing follows.
        is_told: whether people are told.
        value: the metric's value; for a relative rule that of the canary divided by that of `stable`.
        log_e: logarithm of the e-value; None where nothing is a matter of chance.
        alpha: the rule is broken when the e-value reaches 1 / alpha.
        x, n: the counts that it was computed from.
        reason: one line with the numbers.
    """

    about: str = Field(max_length=300)
    rule: int | None = Field(default=None, ge=0)
    outcome: Outcome
    dry_run: bool = False
    is_told: bool = False
    value: _Number | None = None
    stable: _Number | None = None
    log_e: _Number | None = None
    alpha: _Number | None = None
    x: int | None = Field(default=None, ge=0)
    n: int | None = Field(default=None, ge=0)
    reason: str = Field(max_length=MAX_REASON)

    @property
    def counts(self) -> bool:
        """Whether something may follow of it."""
        return not self.dry_run


def worst(findings: Iterable[GuardFinding]) -> Outcome:
    """The outcome of all together: the one that counts most; `pass` of none."""
    found = {finding.outcome for finding in findings if finding.counts}
    return next((outcome for outcome in OUTCOMES if outcome in found), "pass")

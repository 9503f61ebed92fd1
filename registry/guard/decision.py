"""Decisions of the guard: what it concluded, and everything that it concluded it from. Stored before anything follows.

The same facts give the same bytes, so a decision is computed again from itself alone, see `registry.guard.replay`.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field

from registry.formats.document import Document
from registry.guard.facts import Facts
from registry.guard.finding import GuardFinding, Outcome
from registry.guard.judge import conclude

_NAMED = 5
"""Reasons that are named in one line."""


class Decision(Document):
    """What the guard concluded about a channel at one time.

    Attributes:
        facts: everything that it was concluded from.
        findings: one for each rule, and for what no rule asks.
        outcome: of all findings together.
        action: what follows, one of `registry.guard.judge.Action`.
        to: the version to go back to, or the share to advance to, in percent.
        reasons: why, in words.
    """

    LIMIT: ClassVar[int] = 1024 * 1024

    format: Literal[1]
    facts: Facts
    findings: tuple[GuardFinding, ...] = Field(max_length=1000)
    outcome: Outcome
    action: Literal["rollback", "advance", "alert", "hold", "none"]
    to: str = Field(max_length=120)
    reasons: tuple[str, ...] = Field(max_length=1000)

    @classmethod
    def of(cls, facts: Facts) -> Self:
        """What follows from the facts.

        Raises:
            ValueError: the policy in them does not follow the format.
        """
        found = conclude(facts)
        return cls(
            format=1, facts=facts, findings=found.findings, outcome=found.outcome, action=found.action, to=found.to,
            reasons=found.reasons,
        )  # fmt: skip

    @property
    def acts(self) -> bool:
        """Whether the channel moves by it."""
        return self.action in ("rollback", "advance")

    @property
    def says(self) -> tuple[object, ...]:
        """What makes it another decision than the one before: all but the numbers."""
        found = tuple((finding.about, finding.outcome) for finding in self.findings)
        return self.facts.record.generation, self.facts.policy, self.outcome, self.action, self.to, self.reasons, found

    @property
    def summary(self) -> str:
        """What it does, in one line without numbers that change from look to look."""
        what = {
            "rollback": f"back to {self.to}",
            "advance": f"{self.facts.version} advances to {self.to}%",
            "alert": f"{self.facts.version} needs a person",
            "hold": f"{self.facts.version} holds",
            "none": f"{self.facts.version} goes on",
        }[self.action]
        more = len(self.reasons) - _NAMED
        named = "; ".join(self.reasons[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
        return f"{what}: {named}" if named else what

    @property
    def evidence(self) -> str:
        """The findings that it rests on, with their numbers, in one line."""
        wanted = [each for each in self.findings if each.counts and each.outcome == self.outcome]
        shown = wanted if self.outcome != "pass" else [each for each in wanted if each.is_told]
        return "; ".join(f"{each.about}: {each.reason}" for each in shown[:_NAMED])[:2000]

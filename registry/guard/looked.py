"""What came of one look of the guard at a channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from registry.formats.html import HtmlTable
from registry.guard.decision import Decision
from registry.guard.finding import GuardFinding


@dataclass(frozen=True)
class Looked(HtmlTable):
    """What came of one look.

    Attributes:
        generation: of the newest record, 0 without one.
        version: that is tried; empty if none is.
        outcome, action, to: see `registry.guard.judge.Conclusion`; empty if nothing is tried.
        summary: in one line; `evidence` with the numbers.
        decision: digest of the decision that the store keeps; empty if it keeps none of this look.
        changed: whether the channel moved by it.
        notes: what else happened: that the channel moved meanwhile, that MLflow does not show it.
        problem: why the channel could not be judged; empty if it was.
    """

    channel: str
    generation: int = 0
    version: str = ""
    outcome: str = ""
    action: str = ""
    to: str = ""
    summary: str = ""
    evidence: str = ""
    findings: tuple[GuardFinding, ...] = ()
    decision: str = ""
    changed: bool = False
    notes: tuple[str, ...] = ()
    problem: str = ""

    @classmethod
    def of(cls, decision: Decision, sha256: str = "", *, changed: bool = False, notes: tuple[str, ...] = ()) -> Self:
        """What a decision says."""
        facts = decision.facts
        return cls(
            facts.channel, facts.record.generation, facts.version, decision.outcome, decision.action, decision.to,
            decision.summary, decision.evidence, decision.findings, sha256, changed, notes,
        )  # fmt: skip

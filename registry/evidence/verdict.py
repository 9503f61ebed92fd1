"""Verdicts: what the gates decided about a version, with everything that the decision was based on."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from registry.evidence.results import ModelName, Number, UtcTime, VersionText
from registry.evidence.verdict_inputs import VerdictInputs
from registry.formats.document import Document, DocumentPart, Sha256

Outcome = Literal["pass", "fail", "inconclusive"]


class Check(DocumentPart):
    """The outcome of one rule for one target, or for the aggregate.

    Attributes:
        metric: the metric; `past` is the check that the version was stable in the required channel, `withdrawn` that it
            was not rolled back.
        rule: the rule, as in the policy.
        target: the target; None is the aggregate. The worst target if the rule is `per: worst`.
        observed: the value, None if there is none. `low` and `high` are its interval, `n` its samples.
        end: the end of the one-sided interval that had to meet the bound, where the rule says `judge: bound`, to
            `END_DIGITS` significant digits.
        confidence: of `end`, where it is not the rule's: of several measurements of a ratio each has its own.
        wanted_n: how many samples would decide, where there are too few.
        bound: what the value was compared with; for a relative rule stable's value with the allowance added.
        outcome: `pass`, `fail` or `inconclusive`.
        reason: one line that says why.
        evidence: digest of the evidence that was used.
        measurements: how many counted, of a ratio to stable; `evidence` is the one that decided, or the worst of them.
        look: which of them, from 1 in the order of their times, where each is judged with its own confidence.
        stable_evidence: digest of stable's evidence, for a relative rule.
    """

    metric: str = Field(max_length=100)
    rule: dict[str, Any]
    target: str | None = Field(default=None, max_length=200)
    observed: Number | None = None
    low: Number | None = None
    high: Number | None = None
    n: int | None = Field(default=None, ge=0)
    end: Number | None = None
    confidence: Number | None = None
    wanted_n: int | None = Field(default=None, ge=0)
    bound: Number | None = None
    outcome: Outcome
    reason: str = Field(max_length=4000)
    evidence: Sha256 | None = None
    measurements: int | None = Field(default=None, ge=1)
    look: int | None = Field(default=None, ge=1)
    stable_evidence: Sha256 | None = None


class Verdict(Document):
    """The result of the gates with all its inputs. Refusals are kept too.

    Attributes:
        checks: every rule's outcome, in the policy's order.
        policy: digest of the policy.
        stable: the version that relative rules compared with.
        timestamp: when it was judged, UTC, ISO 8601.
        who: the caller.
        forced: the reason for overruling a refusal; empty if it was not overruled.
        freeze: the freeze window of the policy that held then, if one did; a promotion overruled it by force.
        inputs: the names of what it was made from; None in verdicts of earlier releases, which did not keep them.
    """

    LIMIT: ClassVar[int] = 4 * 1024 * 1024

    format: Literal[1]
    model: ModelName
    version: VersionText
    content_sha256: Sha256
    channel: str = Field(max_length=100)
    outcome: Outcome
    checks: tuple[Check, ...] = Field(max_length=100_000)
    policy: Sha256
    stable: VersionText | None = None
    timestamp: UtcTime
    who: str = Field(default="", max_length=500)
    forced: str = Field(default="", max_length=4000)
    freeze: dict[str, str] | None = Field(default=None, max_length=20)
    inputs: VerdictInputs | None = None

    @property
    def allows(self) -> bool:
        """Whether the version may be promoted: it passed, or was forced with a reason."""
        return self.outcome == "pass" or bool(self.forced)

    @property
    def refusals(self) -> tuple[Check, ...]:
        """The checks that did not pass, failures before the inconclusive."""
        return tuple(check for outcome in ("fail", "inconclusive") for check in self.checks if check.outcome == outcome)

    def force(self, reason: str) -> Self:
        """The same verdict with the reason for overruling it; its outcome does not change."""
        return self.model_copy(update={"forced": reason[:4000]})

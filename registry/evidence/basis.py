"""The basis of a verdict: all that it is computed from, and the names of that. The same basis gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from registry.evidence.gates import GateInputs, judge
from registry.evidence.outcomes import ImageOutcome
from registry.evidence.policy import FreezeWindow, Policy
from registry.evidence.results import Evidence, ReadOutcomes
from registry.evidence.verdict import Verdict
from registry.evidence.verdict_inputs import VerdictInputs


@dataclass(frozen=True)
class Basis:
    """What a verdict is computed from.

    Attributes:
        inputs: the documents.
        outcomes: what was answered for each image; the inputs have the same.
        names: the names of all these. Those of the outcomes are known once it is judged.
        timestamp: when it is judged, UTC, ISO 8601.
        who: who asks.
        forced: the reason for overruling a refusal, empty if it is not overruled.
    """

    policy: Policy
    inputs: GateInputs
    outcomes: NotedOutcomes
    names: VerdictInputs
    timestamp: str
    who: str
    forced: str = ""

    @property
    def freeze(self) -> FreezeWindow | None:
        """The window that forbids the promotion, if it is judged within one."""
        return self.policy.frozen(self.inputs.channel, datetime.fromisoformat(self.timestamp))

    def judge(self) -> Verdict:
        """The verdict, which names what it was made from."""
        verdict = judge(self.policy, self.inputs, timestamp=self.timestamp, who=self.who, meaning=self.names.meaning)
        freeze = self.freeze
        said = {"freeze": freeze.model_dump(mode="json", by_alias=True)} if freeze else {}
        names = self.names.model_copy(update={"outcomes": self.outcomes.names})
        verdict = verdict.model_copy(update={"inputs": names, **said})
        return verdict.force(self.forced) if self.forced else verdict


class NotedOutcomes:
    """Reads what a version answered for each image, each measurement once, and notes which could be read.

    Answers that are the same have one digest, whichever version gave them, and any version's copy will do.
    """

    def __init__(self, read: ReadOutcomes, evidence: Iterable[Evidence]) -> None:
        self._read = read
        self._copies: dict[str, dict[str, Evidence]] = {}
        for one in evidence:
            self._copies.setdefault(one.outcomes or "", {})[one.version] = one
        self._found: dict[str, Sequence[ImageOutcome]] = {}

    def __call__(self, evidence: Evidence) -> Sequence[ImageOutcome]:
        """What was answered in a measurement; nothing where that was not kept, or can't be read."""
        if not evidence.outcomes:
            return ()
        if evidence.outcomes not in self._found:
            copies = self._copies.get(evidence.outcomes, {evidence.version: evidence})
            read = map(self._read, copies.values())
            self._found[evidence.outcomes] = next(filter(None, read), ())
        return self._found[evidence.outcomes]

    @property
    def names(self) -> tuple[str, ...]:
        """The digests of those that were read."""
        return tuple(sorted(digest for digest, found in self._found.items() if found))

"""What people and programs are told: a new record of a channel, a decision of the guard, an alert."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from registry.formats import canonical

EventKind = Literal["record", "decision", "alert"]


@dataclass(frozen=True)
class GuardEvent:
    """Something that happened in a channel.

    Attributes:
        model: the registered model.
        channel: its channel.
        generation: of the channel's record that it is about; 0 if there is none.
        kind: what happened.
        version: the version that it is about; empty if there is none.
        summary: what, in one line. It has no number that changes from look to look: by it a repeated event is known.
        reason: why, with all numbers.
        decision: the digest of the guard's decision; empty if there is none.
        when: UTC, ISO 8601.
    """

    model: str
    channel: str
    generation: int
    kind: EventKind
    version: str
    summary: str
    reason: str
    decision: str
    when: str

    @property
    def id(self) -> str:
        """The same for the same event, whichever guard saw it, and whenever: 32 hex digits."""
        same = {name: value for name, value in asdict(self).items() if name not in ("reason", "when")}
        return canonical.sha256(canonical.encode(same))[:32]

    @property
    def title(self) -> str:
        """One line that says where and what."""
        return f"{self.model} {self.channel}: {self.summary}"

    def facts(self) -> dict[str, str]:
        """What else is known, by name, without what is not."""
        facts = {
            "version": self.version,
            "generation": str(self.generation) if self.generation else "",
            "reason": self.reason,
            "decision": self.decision,
            "when": self.when,
        }
        return {name: value for name, value in facts.items() if value}

"""Says what happened in a channel, as events for the notifiers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from registry.channels.record import Record
from registry.guard.decision import Decision
from registry.guard.guard_event import EventKind, GuardEvent
from registry.machine import clock

Tell = Callable[[GuardEvent], object]


@dataclass(frozen=True)
class Teller:
    """Makes events about one model, and hands them to `tell`, which tells each once."""

    model: str
    tell: Tell

    def record(self, head: Record) -> None:
        """A new record of a channel."""
        version = head.canary or head.stable
        share = f" with {head.trial_share}" if head.canary else ""
        what = f"{head.action}: {version.version if version else 'nothing'}{share}, by {head.who}"
        self._tell("record", head, what, head.reason, head.decision or "")

    def rolled_back(self, head: Record) -> None:
        """A record by which the guard went back."""
        to = head.stable.version if head.stable else "nothing"
        self._tell("alert", head, f"the guard went back: {to} answers everything", head.reason, head.decision or "")

    def decision(self, decision: Decision, sha256: str) -> None:
        """A decision that was stored."""
        self._about(decision, "decision", decision.summary, decision.evidence, sha256)

    def alert(self, decision: Decision, summary: str, reason: str) -> None:
        """Something of a decision that people have to know."""
        self._about(decision, "alert", summary, reason)

    def problem(self, channel: str, summary: str, reason: str) -> None:
        """Why a channel can't be judged."""
        self.tell(GuardEvent(self.model, channel, 0, "alert", "", summary, reason, "", clock.timestamp()))

    def _about(self, decision: Decision, kind: EventKind, summary: str, reason: str, sha256: str = "") -> None:
        facts = decision.facts
        self.tell(
            GuardEvent(
                self.model, facts.channel, facts.record.generation, kind, facts.version, summary, reason, sha256,
                clock.timestamp(),
            )
        )  # fmt: skip

    def _tell(self, kind: EventKind, head: Record, summary: str, reason: str, decision: str) -> None:
        version = head.canary or head.stable
        name = version.version if version else ""
        self.tell(
            GuardEvent(
                self.model, head.channel, head.generation, kind, name, summary, reason, decision, clock.timestamp()
            )
        )

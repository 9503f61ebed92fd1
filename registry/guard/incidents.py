"""The note on each rollback by the guard, in the store and beside the version's artifacts in MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from registry.channels.record import Record
from registry.errors import KeyExists, UloraError, Unreachable, first_line
from registry.guard.decision import Decision
from registry.guard.decisions import Decisions
from registry.guard.incident import JudgedHarm, incident_note
from registry.names import VersionName
from registry.parallel import within
from registry.store import layout
from registry.usecases.observed import ChannelLook
from registry.usecases.replicas import replica_statuses
from registry.wiring import Wiring

_MLFLOW_SECONDS = 10.0


@dataclass
class Incidents:
    """The notes about one channel."""

    wiring: Wiring
    channel: str
    decisions: Decisions
    _done: set[str] = field(default_factory=set)

    def is_done(self, sha256: str) -> bool:
        """Whether the note on what a decision did is in the store, or can't be written."""
        if sha256 not in self._done and self.wiring.store.head(self._key(sha256)) is not None:
            self._done.add(sha256)
        return sha256 in self._done

    def write(self, look: ChannelLook, sha256: str) -> tuple[str, ...]:
        """Write the note on the newest record, by which a decision went back; returns what did not work.

        Another guard may have written one: that one stays.
        """
        try:
            decision = self.decisions.read(self.channel, sha256)
            body = self._note(look, decision, sha256).encode()
            self.wiring.store.create(self._key(sha256), body)
        except Unreachable as error:
            return (f"no note on the incident was written yet: {first_line(error)}",)
        except KeyExists:
            self._done.add(sha256)
            return ()
        except UloraError as error:  # its decision is missing or damaged: to try again changes nothing
            self._done.add(sha256)
            return (f"no note on the incident is written: {first_line(error)}",)
        self._done.add(sha256)
        return self._show(decision, sha256, body)

    def _note(self, look: ChannelLook, decision: Decision, sha256: str) -> str:
        began = decision.facts.trial.started_generation - 1
        records = [record for record in reversed(look.records) if record.generation >= began]
        replicas = replica_statuses(self.wiring, self.channel, look.head)
        return incident_note([*records, look.head], _harm(decision, sha256, look.head), replicas)

    def _show(self, decision: Decision, sha256: str, body: bytes) -> tuple[str, ...]:
        if self.wiring.settings.tracking_uri is None:
            return ()
        name = VersionName.parse(decision.facts.version)

        def add() -> None:
            binding = self.wiring.bindings.get(name)
            self.wiring.catalog.hasty().add_file(binding, f"incident-{self.channel}-{sha256[:12]}.md", body)

        try:
            within(_MLFLOW_SECONDS, add)
        except Exception as error:  # the channel has moved, and the note is in the store
            return (f"MLflow does not have the note on the incident: {first_line(error)}",)
        return ()

    def _key(self, sha256: str) -> str:
        return layout.incident(self.wiring.model, self.channel, sha256)


def _harm(decision: Decision, sha256: str, head: Record) -> JudgedHarm:
    return JudgedHarm(
        decision=sha256, version=decision.facts.version, serves=decision.to, rule="; ".join(decision.reasons[:5]),
        evidence=tuple(_evidence(decision)), when=head.when,
    )  # fmt: skip


def _evidence(decision: Decision) -> Iterator[tuple[str, str]]:
    """What was found, what decided first; then how much was counted."""
    found = [each for each in decision.findings if each.counts]
    for each in sorted(found, key=lambda each: each.outcome != decision.outcome):
        yield f"{each.outcome}: {each.about}", each.reason
    for stage in decision.facts.stages:
        counts = ", ".join(f"{count} by {arm}" for arm, count in stage.asked.items())
        yield f"generation {stage.generation}, {stage.kind} {stage.percent:g}%", f"units asked: {counts}"

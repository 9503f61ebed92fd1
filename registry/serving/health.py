"""What a replica says about itself: to `GET /health`, to the caller of `Live.health`, and in its heartbeat."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from registry.serving.fleet import Heartbeat
from registry.serving.proof import Proof
from registry.serving.routing import Serving

HealthState = Literal["starting", "serving", "stale", "not ready", "draining", "closed"]
"""`stale`: the log could not be read for some time, or not yet since a start without the store. `not ready`: for more
than `max_staleness`, if that is set. `draining`: it ends soon, and still answers."""


@dataclass(frozen=True)
class TrialHealth:
    """A trial as one replica takes part in it.

    Attributes:
        canary: the version on trial.
        kind, percent: `split`, and the share of the keys that it answers; `shadow`, and the share that both compute.
        problem: why stable answers all here; empty if that is not so.
    """

    canary: str
    kind: str
    percent: float
    generation: int
    problem: str = ""

    @classmethod
    def of(cls, serving: Serving | None, problem: str) -> TrialHealth | None:
        """The trial of what is served; None if there is none."""
        record = serving.record if serving else None
        if record is None or record.canary is None:
            return None
        kind = record.trial.kind if record.trial else ""
        percent = record.trial.shadow_percent if record.trial and kind == "shadow" else record.canary.weight
        return cls(record.canary.version, kind, percent or 0.0, record.generation, problem)


@dataclass(frozen=True)
class Health:
    """The health of a replica.

    Attributes:
        version, generation: what answers, and the generation of its record; None and 0 before the first.
        newest: the newest generation that was read; above `generation` while its version is being loaded.
        error: why the newest record is not served, or another problem; empty if there is none.
        rollback_ready: whether the next rollback target is in memory.
        resident: the versions in memory.
        last_seen: seconds since the log was last read; after a start without the store, since its record was confirmed.
        runtime: the runtime that computes the answers; before the first version the requested one, None for the
            flavor's own choice.
        note: a problem with the heartbeat, or with what is kept for a start without the store; empty if there is none.
        loading: the loads that run or hang, for how long, and at which step; empty if there are none.
        max_batch: images that are computed together at most.
        queued: images that wait.
        compute: seconds that the present batch has taken so far; 0 if there is none. It grows while that hangs.
        proof: what the version that answers was found to be, by the digests of its weights in memory; None before the
            first.
        trial: the trial that runs; None if none does.
        observed: when this replica's observations were written last, UTC; empty before that, and where it writes none.
        observations_problem: why they are not written; empty if they are.
    """

    state: HealthState
    model: str
    channel: str
    version: str | None
    generation: int
    newest: int
    error: str
    rollback_ready: bool
    resident: tuple[str, ...]
    last_seen: float
    device: str
    runtime: str | None = None
    note: str = ""
    loading: str = ""
    max_batch: int = 0
    queued: int = 0
    compute: float = 0.0
    proof: Proof | None = None
    trial: TrialHealth | None = None
    observed: str = ""
    observations_problem: str = ""

    @property
    def ready(self) -> bool:
        """Whether requests should be sent to this replica."""
        return self.state in ("serving", "stale")

    def heartbeat(self, replica_id: str) -> Heartbeat:
        """The heartbeat of this process that says the same."""
        proof = self.proof or Proof("")
        return Heartbeat(
            format=1,
            id=replica_id,
            host=socket.gethostname()[:255],
            pid=os.getpid(),
            device=self.device[:100],
            runtime=(self.runtime or "")[:100],
            state=self.state,
            version=self.version or "",
            generation=self.generation,
            newest=self.newest,
            rollback_ready=self.rollback_ready,
            resident=self.resident,
            error=self.error[:1000],
            loading=self.loading[:300],
            manifest_sha256=proof.manifest_sha256,
            weights_sha256=proof.weights_sha256,
            weights_count=len(proof.weights),
            golden_sha256=proof.golden_sha256,
            proved=proof.when,
            canary=self.trial.canary if self.trial and not self.trial.problem else "",
            trial_problem=self.trial.problem[:500] if self.trial else "",
            observed=self.observed,
            observations_problem=self.observations_problem[:500],
            when=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )

"""What a replica counts in trials, and the object of the store in which it tells that to the guard."""

from __future__ import annotations

import socket

from registry.errors import CorruptBlob, DiskFull, Unreachable
from registry.serving.fleet import Heartbeats
from registry.serving.loaders import Loaded, TellsMemory
from registry.serving.own_object import OwnObject, new_replica_id
from registry.serving.residents import LoadFailure
from registry.serving.routing import Serving
from registry.serving.trial_counts import TrialCounts
from registry.store import layout
from registry.trials.observations import ArmName, Failure, TrialStage
from registry.trials.recorder import Recorder

_REST = 6
"""Without a trial observations are written so many times less often."""


class Observing:
    """Counts in one replica. With heartbeats it also writes what it has counted, into the same store by the same id;
    that object stays when the replica ends.

    Attributes:
        recorder: counts units. `counts`: tells it of rows.
        note: why nothing is written; empty if it is.
    """

    def __init__(self, fleet: Heartbeats | None, every: float) -> None:
        """Args:
        every: seconds between two writes in a trial.
        """
        replica = fleet.id if fleet else new_replica_id()
        self.recorder = Recorder(replica, socket.gethostname())
        self.counts = TrialCounts(self.recorder)
        self._serving: Serving | None = None
        self._told: dict[tuple[TrialStage, str], int] = {}
        self._every = every
        self._writer = None
        if fleet:
            key = layout.observation(fleet.model, fleet.channel, replica)
            self._writer = OwnObject(fleet.store, key, "observations", self._pause, is_kept=True)

    def serves(self, serving: Serving) -> None:
        """Another record is served, or its canary came into memory."""
        self.recorder.begin(serving.stage)
        arms: list[tuple[ArmName, Loaded | None]] = [("stable", serving.stable), ("canary", serving.canary)]
        for arm, loaded in arms:
            if isinstance(loaded, TellsMemory) and loaded.memory:
                self.recorder.memory(serving.stage, arm, max(loaded.memory.values()) / 1e6)
        before, self._serving = self._serving, serving
        if self._writer is None:
            return
        if before is None:
            self._writer.begin(self.recorder.document)
        else:
            self._writer.changed()

    def canary_failed(self, stage: TrialStage, failure: LoadFailure) -> None:
        """The canary is not in memory, or its weights there are others: each failure counts once."""
        kind = _kind_of(failure)
        if kind is None or self._told.get((stage, kind)) == failure.tries:
            return
        self._told = {(stage, kind): failure.tries}
        self.recorder.failed(stage, "canary", kind)
        if self._writer:
            self._writer.changed()

    @property
    def written(self) -> str:
        """When observations were written last, UTC, ISO 8601; empty before that."""
        return self._writer.written if self._writer else ""

    @property
    def note(self) -> str:
        """Why they are not written; empty if they are, or if nobody asked for it."""
        return self._writer.note if self._writer else ""

    def retry_now(self) -> None:
        """Write now: the store answers again."""
        if self._writer:
            self._writer.retry_now()

    def stop(self) -> None:
        """Begin to write for the last time; `close` waits for it."""
        if self._writer:
            self._writer.stop()

    def close(self, timeout: float) -> None:
        """Write for the last time; returns when that is done, or after `timeout` seconds."""
        if self._writer:
            self._writer.close(timeout)

    def _pause(self) -> float:
        in_trial = self._serving is not None and self._serving.stage.trial
        return self._every if in_trial else _REST * self._every


def _kind_of(failure: LoadFailure) -> Failure | None:
    """The kind of a failure to load; None for those that are not the version's: the store's, or this machine's."""
    if failure.error is None or isinstance(failure.error, CorruptBlob):
        return "digest_mismatch"
    return None if isinstance(failure.error, Unreachable | DiskFull) else "load_failed"

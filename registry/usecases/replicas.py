"""What the replicas report, compared with what was released."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from registry.answers import Change, Followers, ReplicaStatus
from registry.channels.record import Record
from registry.errors import StoreDenied, UloraError
from registry.names import VersionName
from registry.serving.fleet import Heartbeat, Replica, replicas, wait_for_replicas
from registry.serving.proof import ProofState, Released
from registry.versions.pointer import Pointer
from registry.wiring import Wiring

_MAX_OTHERS = 16
"""Versions beside the newest that are looked up for the replicas of a channel. No fleet that is in order serves more;
who writes false heartbeats may name any number."""


def replica_statuses(wiring: Wiring, channel: str, head: Record | None) -> tuple[ReplicaStatus, ...]:
    """What the replicas of a channel last reported; `head` is its newest record. Empty where this identity may not
    read it.

    Raises:
        StoreUnreachable: the heartbeats can't be read.
    """
    try:
        found = replicas(wiring.store, wiring.model, channel)
    except StoreDenied:
        return ()
    return _judged(_Released(wiring, head.generation if head else 0, head.stable if head else None), found)


def wait_for_followers(wiring: Wiring, change: Change, seconds: float) -> Followers:
    """Wait until every live replica serves a change of a channel, at most so long.

    One that serves it with other weights, or does not say with which, is not waited for: its heartbeat says what it has
    in memory since it serves the change, and that does not become another by waiting.

    Raises:
        BadInput: `seconds` is negative or NaN.
        StoreUnreachable, StoreDenied: the heartbeats can't be read.
    """
    fleet = wait_for_replicas(wiring.store, wiring.model, change.channel, change.generation, seconds)
    pointer = Pointer(version=change.version, manifest_sha256=change.manifest_sha256) if change.version else None
    released = _Released(wiring, change.generation, pointer)
    return Followers(_judged(released, fleet.followed), _judged(released, fleet.behind))


class _Released:
    """What the replicas of a channel should have in memory. Manifests are read when a replica says something."""

    def __init__(self, wiring: Wiring, generation: int, stable: Pointer | None) -> None:
        """`stable` is what the record of this generation names. For replicas at another one only the version's name is
        known, which is bound to one manifest for ever."""
        self._wiring = wiring
        self._generation = generation
        self._stable = stable
        self._newest: list[Released | None] = []
        self._others: dict[str, Released | None] = {}

    def compare(self, said: Heartbeat) -> ProofState:
        """How a heartbeat compares with the manifest of what its replica should serve."""
        if not said.manifest_sha256:
            return "not told"
        released = self._of(said)
        return released.compare(said.manifest_sha256, said.weights_sha256) if released else "unknown"

    def _of(self, said: Heartbeat) -> Released | None:
        if said.generation == self._generation:
            self._newest = self._newest or [self._read(lambda: self._stable)]
            return self._newest[0]
        if said.version not in self._others and len(self._others) < _MAX_OTHERS:
            self._others[said.version] = self._read(lambda: self._bound(said.version))
        return self._others.get(said.version)

    def _bound(self, version: str) -> Pointer | None:
        binding = self._wiring.bindings.find(VersionName.parse(version))
        return binding.pointer if binding else None

    def _read(self, find: Callable[[], Pointer | None]) -> Released | None:
        try:
            pointer = find()
            return Released.of(pointer, self._wiring.bindings.manifest(pointer)) if pointer else None
        except UloraError:  # `ulora verify` says why; here it must not hide what is known of the other replicas
            return None


def _judged(released: _Released, found: Sequence[Replica]) -> tuple[ReplicaStatus, ...]:
    return tuple(ReplicaStatus.of(replica, released.compare(replica.heartbeat)) for replica in found)

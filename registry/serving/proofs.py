"""The proofs of all versions in memory, computed again every few minutes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping

from registry.serving import events
from registry.serving.loaders import Loaded
from registry.serving.proof import Proof, prove_again
from registry.versions.pointer import Pointer

EVERY = 600.0
"""Seconds between two computations."""


class Proofs:
    """The proofs of the versions in memory, by the digest of their manifest.

    Digests are computed in the thread of a load and in this object's own, never in that of a request. Requests are
    answered meanwhile: weights in memory are only read.
    """

    def __init__(
        self, in_memory: Callable[[], Mapping[str, Loaded]], changed: Callable[[], None], *, every: float = EVERY
    ) -> None:
        """`in_memory` returns the versions there are; `changed` is called when a version's proof has a new problem."""
        self._in_memory = in_memory
        self._changed = changed
        self._every = every
        self._first: dict[str, Proof] = {}
        self._last: dict[str, Proof] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ulora-proofs", daemon=True)

    def get(self, pointer: Pointer) -> Proof | None:
        """The last proof of a version, None if it is not in memory."""
        return self._last.get(pointer.manifest_sha256)

    def add(self, proof: Proof) -> None:
        """Add the proof of a version that was loaded."""
        with self._lock:
            self._first[proof.manifest_sha256] = self._last[proof.manifest_sha256] = proof

    def remove(self, manifest_sha256: str) -> None:
        """Drop the proof of a version that leaves memory."""
        with self._lock:
            self._first.pop(manifest_sha256, None)
            self._last.pop(manifest_sha256, None)

    def start(self) -> None:
        """Start computing them again and again."""
        self._thread.start()

    def stop(self) -> None:
        """Begin to compute none any more; `close` waits for one that is being computed."""
        self._closing.set()

    def close(self, timeout: float) -> None:
        """Compute none any more; returns when that is so, or after `timeout` seconds."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._closing.wait(self._every * random.uniform(0.9, 1.1)):  # noqa: S311  spreads the load, no secret
            for digest in self._in_memory():
                self._renew(digest)

    def _renew(self, digest: str) -> None:
        loaded, first, before = self._in_memory().get(digest), self._first.get(digest), self._last.get(digest)
        if self._closing.is_set() or not (loaded and first and before):
            return
        proof = prove_again(Pointer(version=loaded.version, manifest_sha256=digest), loaded, first)
        with self._lock:
            if self._first.get(digest) is not first:  # it left memory meanwhile, or was loaded again
                return
            self._last[digest] = proof
        if proof.problem and proof.problem != before.problem:
            events.weights_changed(loaded.version, proof.problem)
            self._changed()

"""How a channel is followed, how its versions are loaded, and how requests wait."""

from __future__ import annotations

from dataclasses import dataclass

from registry.serving.fleet import EVERY as OBSERVE_EVERY
from registry.serving.loaders import LoadOptions
from registry.serving.proofs import EVERY as PROVE_EVERY
from registry.serving.scheduler import DEFAULT_WAITING_BYTES


@dataclass(frozen=True)
class LiveOptions(LoadOptions):
    """How a channel is followed, how its versions are loaded, and how requests wait.

    Attributes:
        poll: seconds between two reads of the log, varied at random by 10%.
        stale_after: seconds without a successful read of the log after which the state is `stale`.
        max_staleness: seconds after which it is `not ready`; None for never. Requests are still answered.
        max_cache_age: seconds after which a kept state is refused by a start without the store, since its record was
            last confirmed as the newest of the log.
        read_seconds: seconds after which a read of the log is given up. The next one is made all the same. Also how
            long the store may not answer at the start, until this machine's kept state is used.
        retry: seconds before a failed load is tried again; doubles with each failure, up to a minute.
        slow_after: seconds after which a load is logged as slow, and no longer holds up more urgent ones.
        observe_every: seconds between two writes of what is counted in a trial; without one it is six times as long.
        prove_every: seconds after which the digests of the weights in memory are computed again.
        max_batch: images that are computed together at most; None to find out at the start.
        deadline: seconds in which a request over HTTP has to be answered if it does not say so itself.
        waiting_bytes: bytes that the bodies and images of waiting requests may hold together.
    """

    poll: float = 1.0
    stale_after: float = 60.0
    max_staleness: float | None = None
    max_cache_age: float = 7 * 86_400.0
    read_seconds: float = 5.0
    retry: float = 1.0
    slow_after: float = 30.0
    observe_every: float = OBSERVE_EVERY
    prove_every: float = PROVE_EVERY
    max_batch: int | None = None
    deadline: float = 2.0
    waiting_bytes: int = DEFAULT_WAITING_BYTES

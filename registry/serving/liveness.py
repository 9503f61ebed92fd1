"""Whether only a restart helps a replica: the liveness that `GET /health/live` and Ray Serve ask for.

It looks at the process and the thread that computes, never at the store or a version: an outage of the store would
restart all replicas.
"""

from __future__ import annotations

from registry.serving.follow import Live


def problem_of_process(live: Live, compute_limit: float) -> str:
    """What only a restart helps against; empty if there is nothing.

    Args:
        compute_limit: seconds that one batch may take.
    """
    if live.scheduler.has_died:
        return "the thread that computes has ended: restart this replica"
    busy = live.scheduler.busy_seconds
    return f"one batch has been computed for {busy:.0f} s: restart this replica" if busy > compute_limit else ""

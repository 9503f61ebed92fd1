"""Where and how a replica answers over HTTP."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HttpOptions:
    """Where and how a replica answers over HTTP.

    Attributes:
        port: 0 for any free one.
        grace: seconds from SIGTERM in which the process has to end; Kubernetes kills after 30 s. Half of them
            is for running requests, which are then cut off.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grace: float = 20.0

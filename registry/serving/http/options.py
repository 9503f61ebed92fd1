"""Where and how a replica answers over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HttpOptions:
    """Where and how a replica answers over HTTP.

    Attributes:
        port: 0 for any free one.
        grace: seconds from SIGTERM in which the process has to end; Kubernetes kills after 30 s. A third of what
            `drain` leaves is for closing; running requests that take longer than the rest are cut off.
        drain: seconds from SIGTERM for which requests are still accepted, by a replica that is not ready any more; at
            most half of `grace`.
        header_seconds: for the head of a request, from its first byte, or from when the connection was made.
        body_seconds: for the body of a request, from the end of its head; also for a client to read its answer.
        idle_seconds: between an answer and the next request. Load balancers keep connections for 60 s: closed here
            first, a request might cross the closing.
        max_connections: those above are refused, also where fewer take too many of the process's file handles.
        tokens: the file of bearer tokens; None for those of `ULORA_TOKENS`, if there are any.
        fleet_key_file: the file of the keys that sign receipts, the same on all replicas; None for those of
            `ULORA_FLEET_KEY`, if there are any. Without keys answers have no receipts, and no labels are taken.
        rate_limit: requests of one token or address, such as `100/second`; None for no limit.
        ssl_certfile, ssl_keyfile: PEM files; with them it speaks TLS only. Without `ssl_keyfile` the key is in the
            first.
        compute_limit: seconds that one batch may take until `/health/live` asks for a restart. 120 by default: the
            largest batch that a start chooses by itself has 64 images, which take 64 s at one image a second, and twice
            that on a machine that other work shares. A restart by mistake would make such a machine slower still.
        max_images: images of one request.
        max_body: bytes of a request's body. 64 MiB by default: 32 photos of 2 MiB, or one of the largest image's size
            (32 MiB) in base64.
        cors_origins: origins whose pages may read answers in a browser; `*` for any. None by default.
        cache_bytes: memory for answers, which are given again for the same image, target and version; 0 for none.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grace: float = 20.0
    drain: float = 5.0
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 75.0
    max_connections: int = 4096
    tokens: Path | None = None
    fleet_key_file: Path | None = None
    rate_limit: str | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    compute_limit: float = 120.0
    max_images: int = 32
    max_body: int = 64 * 1024 * 1024
    cors_origins: tuple[str, ...] = ()
    cache_bytes: int = 0

    @property
    def drain_seconds(self) -> float:
        """How long it drains."""
        return min(self.drain, self.grace / 2)

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
    compute_limit: float = 120.0
    max_images: int = 32
    max_body: int = 64 * 1024 * 1024
    cors_origins: tuple[str, ...] = ()
    cache_bytes: int = 0

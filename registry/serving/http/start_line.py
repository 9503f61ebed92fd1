"""What a replica logs when it has begun to answer over HTTP."""

from __future__ import annotations

import logging
import os

from registry.machine.cores import usable_cores
from registry.serving.follow import Live
from registry.serving.http.options import HttpOptions

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_log = logging.getLogger(__name__)


def log_start(live: Live, options: HttpOptions, url: str, *, with_tokens: bool) -> None:
    """Log where and with what it answers, and whether it asks who is there."""
    health, cores = live.health(), usable_cores()
    facts = {
        "event": "start", "model": health.model, "channel": health.channel, "version": health.version, "url": url,
        "device": health.device, "runtime": health.runtime, "cores": cores,
        "threads": os.environ.get("OMP_NUM_THREADS") or cores, "max_batch": health.max_batch,
        "deadline": live.deadline, "tokens": with_tokens, "tls": options.ssl_certfile is not None,
        "rate_limit": options.rate_limit, "max_connections": options.max_connections,
    }  # fmt: skip
    _log.info(
        "%s %s: %s at %s, on %s, in batches of up to %d", health.model, health.channel, health.version, url,
        health.device, health.max_batch, extra={"facts": facts},
    )  # fmt: skip
    if not with_tokens:
        tell = _log.info if options.host in _LOOPBACK else _log.warning
        tell("there are no tokens: whoever reaches %s is answered", url, extra={"facts": {"event": "open"}})

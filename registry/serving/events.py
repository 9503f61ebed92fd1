"""What a replica logs: each change of version and of state, each failed load, and whether the log can be read.

Each line has fields for log collectors in `facts`; `registry.cli.logs` prints both.
"""

from __future__ import annotations

import logging
from typing import Any

from registry.channels.record import Record
from registry.serving.health import HealthState
from registry.serving.loaders import Loaded

_log = logging.getLogger(__name__)
_WORSE: tuple[HealthState, ...] = ("stale", "not ready")


def version_changed(record: Record, loaded: Loaded, before: str | None) -> None:
    """From now on a version answers, and why; `before` is the one that did."""
    was = f", before {before}" if before else ""
    reason = f" ({record.reason})" if record.reason else ""
    _info(
        f"{record.model} {record.channel} serves {loaded.version}{was}: generation {record.generation}, "
        f"{record.action} by {record.who}, {record.when}{reason}",
        event="version", version=loaded.version, content_sha256=loaded.content_sha256, generation=record.generation,
        action=record.action, who=record.who,
    )  # fmt: skip


def state_changed(channel: str, state: HealthState, before: HealthState, reason: str) -> None:
    """The state of the replica is another one; `reason` says why it is worse."""
    tell = _warn if state in _WORSE else _info
    tell(f"{channel}: {state}, was {before}" + (f": {reason}" if reason else ""), event="state", state=state)


def load_failed(version: str, problem: str, tries: int, pause: float) -> None:
    """A version was not loaded, e.g. because its signature was refused; it is tried again after a pause in seconds."""
    _warn(f"{problem} (try {tries}; the next one in {pause:.3g} s)", event="load failed", version=version, tries=tries)


def load_is_slow(version: str, progress: str) -> None:
    """A load takes long."""
    _warn(progress, event="slow load", version=version)


def log_unread(problem: str) -> None:
    """The channel's log can't be read, or does not continue what was read before."""
    _warn(problem, event="log unread")


def log_read_again(channel: str) -> None:
    """The channel's log can be read again."""
    _info(f"{channel}: the log can be read again", event="log read")


def _info(message: str, **facts: Any) -> None:
    _log.info("%s", message, extra={"facts": facts})


def _warn(message: str, **facts: Any) -> None:
    _log.warning("%s", message, extra={"facts": facts})

"""What a replica logs: each change of version and of state, each failed load, and whether the log can be read.

Each line has fields for log collectors in `facts`; `registry.cli.logs` prints both.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from registry.channels.record import Record
from registry.formats.counts import counted
from registry.serving.health import HealthState
from registry.serving.routing import Serving

_log = logging.getLogger(__name__)
_WORSE: tuple[HealthState, ...] = ("stale", "not ready")


def version_changed(serving: Serving, before: str | None) -> None:
    """From now on a version answers, perhaps beside one on trial, and why; `before` is the one that did."""
    record, loaded = serving.record, serving.stable
    was = f", before {before}" if before and before != loaded.version else ""
    was += f", {_trial_of(serving)}" if record.canary else ""
    reason = f" ({record.reason})" if record.reason else ""
    by = f", {record.action} by {record.who}, {record.when}{reason}" if record.who else ""
    _info(
        f"{record.model} {record.channel} serves {loaded.version}{was}: generation {record.generation}{by}",
        event="version", version=loaded.version, content_sha256=loaded.content_sha256, generation=record.generation,
        action=record.action, who=record.who,
    )  # fmt: skip


def pinned_warning(version: str, warning: str) -> None:
    """Something speaks against the version that a replica is pinned to."""
    _warn(warning, event="pinned", version=version)


def canary_joined(serving: Serving) -> None:
    """The version on trial came into memory after its record was served."""
    record = serving.record
    _info(
        f"{record.model} {record.channel}: {_trial_of(serving)} from now on", event="canary",
        version=serving.stage.canary, generation=record.generation,
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


def weights_changed(version: str, problem: str) -> None:
    """The weights of a version in memory are not those that were loaded, or can't be hashed any more."""
    _warn(problem, event="weights changed", version=version)


def log_unread(problem: str) -> None:
    """The channel's log can't be read, or does not continue what was read before."""
    _warn(problem, event="log unread")


def log_read_again(channel: str) -> None:
    """The channel's log can be read again."""
    _info(f"{channel}: the log can be read again", event="log read")


def folder_moved(record: Record, version: str, before: str, folder: Path, left_out: Sequence[str]) -> None:
    """The link `current` of a kept folder leads to another version; `before` is the one that it led to."""
    was = f", before {before}" if before else ""
    beside = f"; {counted(len(left_out), 'file')} of it left out, such as {left_out[0]}" if left_out else ""
    _info(
        f"{record.model} {record.channel}: current is {version}{was}: generation {record.generation}, "
        f"{record.action} by {record.who}, {record.when}, in {folder}{beside}",
        event="version", version=version, generation=record.generation, action=record.action, who=record.who,
        folder=str(folder), left_out=len(left_out),
    )  # fmt: skip


def folder_stays(record: Record, version: str) -> None:
    """A new record of the channel names the version that `current` leads to already."""
    _info(
        f"{record.model} {record.channel}: current stays {version}: generation {record.generation}, {record.action} "
        f"by {record.who}",
        event="record", version=version, generation=record.generation, action=record.action, who=record.who,
    )  # fmt: skip


def folder_removed(places: Sequence[str]) -> None:
    """Version folders that nobody needs any more were deleted."""
    _info(f"deleted {', '.join(places)}", event="deleted", folders=list(places))


def hook_succeeded(version: str, seconds: float) -> None:
    """The command of `--exec` ended with 0."""
    _info(f"the hook for {version} succeeded in {seconds:.3g} s", event="hook", version=version)


def follow_failed(version: str, problem: str, tries: int, pause: float) -> None:
    """Something about a version failed, e.g. its hook; it is tried again after a pause in seconds."""
    _warn(
        f"{version}: {problem} (try {tries}; the next one in {pause:.3g} s)",
        event="follow failed", version=version, tries=tries,
    )  # fmt: skip


def given_up(channel: str, reason: str) -> None:
    """A download or a hook was given up, because a newer record wants something else."""
    _info(f"{channel}: {reason}", event="given up")


def rollback_unready(problem: str) -> None:
    """The folder of a rollback target is not there; that is tried again."""
    _warn(problem, event="rollback not ready")


def channel_empty(channel: str) -> None:
    """The channel serves no version yet."""
    _info(f"{channel} serves no version yet; waiting for the first", event="empty")


def fetch_note(text: str) -> None:
    """Something about a download that people should know, e.g. that the cache can't be used."""
    _warn(text, event="download")


def state_unusable(problem: str) -> None:
    """What this machine keeps for a start without the store is damaged, or another's; it is not used."""
    _warn(problem, event="kept state unusable")


def state_not_kept(problem: str) -> None:
    """What a start without the store needs can't be kept."""
    _warn(problem, event="state not kept")


def _trial_of(serving: Serving) -> str:
    stage = serving.stage
    if serving.canary is None:
        return f"without {serving.record.canary.version if serving.record.canary else ''}, which is on trial"
    return f"{stage.canary} on trial ({serving.record.trial_share})"


def _info(message: str, **facts: Any) -> None:
    _log.info("%s", message, extra={"facts": facts})


def _warn(message: str, **facts: Any) -> None:
    _log.warning("%s", message, extra={"facts": facts})

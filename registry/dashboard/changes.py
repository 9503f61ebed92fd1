"""Changes of channels, only where the dashboard was started for them: each is planned, then made with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from registry.answers import Change
from registry.api import Registry
from registry.channels.channel import PromoteOptions, RollbackOptions
from registry.dashboard.session import Dashboard
from registry.errors import BadInput
from registry.usecases.options import AbortOptions, AdvanceOptions

Kind = Literal["promote", "rollback", "advance", "abort"]


@dataclass(frozen=True)
class WantedChange:
    """What somebody wants of a channel.

    Attributes:
        version: to promote.
        percent: to advance to.
        expected: the generation that the person saw; any other is `ChannelMoved`.
    """

    kind: Kind
    channel: str
    expected: int
    version: str = ""
    percent: float = 100.0


def plan(dashboard: Dashboard, wanted: WantedChange) -> Change:
    """What a change would do. Nothing is written.

    Raises:
        BadInput: the dashboard was not started for changes.
        UloraError: as the same method of `Registry`.
    """
    _check_allowed(dashboard)
    return _act(dashboard.registry, wanted, "a plan", dry_run=True)


def make(dashboard: Dashboard, wanted: WantedChange, reason: str) -> Change:
    """Make a change, then let MLflow show it, as the commands do.

    Raises:
        BadInput: the dashboard was not started for changes, or there is no reason.
        UloraError: as the same method of `Registry`.
    """
    _check_allowed(dashboard)
    if not reason.strip():
        raise BadInput("no reason is given; nothing changed", hint="say why: it stays on the record")
    try:
        done = _act(dashboard.registry, wanted, reason.strip(), dry_run=False)
    finally:
        dashboard.kept.forget()
    if done.changed and wanted.kind in ("rollback", "abort") and dashboard.registry.settings.tracking_uri:
        return done.with_notes(dashboard.registry.mirror())
    return done


def _check_allowed(dashboard: Dashboard) -> None:
    if not dashboard.options.allow_changes:
        raise BadInput("this dashboard only shows", hint="start it with `ulora dashboard --allow-changes`")


def _act(registry: Registry, wanted: WantedChange, reason: str, *, dry_run: bool) -> Change:
    channel, expected = wanted.channel, wanted.expected
    match wanted.kind:
        case "promote":
            promote = PromoteOptions(expected=expected)
            return registry.promote(wanted.version, channel, promote, reason=reason, dry_run=dry_run)
        case "rollback":
            return registry.rollback(channel, RollbackOptions(expected=expected), reason=reason, dry_run=dry_run)
        case "advance":
            advance = AdvanceOptions(expected=expected)
            return registry.canary.advance(channel, wanted.percent, advance, reason=reason, dry_run=dry_run)
        case "abort":
            return registry.canary.abort(channel, AbortOptions(expected=expected), reason=reason, dry_run=dry_run)

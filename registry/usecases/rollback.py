"""Roll a channel back, the whole version or some components. Needs S3 only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from registry.answers import Change
from registry.channels.channel import RollbackOptions
from registry.errors import NothingToRollBackTo
from registry.usecases.checks import check_servable
from registry.wiring import Wiring


def rollback(
    wiring: Wiring, channel: str, options: RollbackOptions | None, *, reason: str, only: Sequence[str], dry_run: bool
) -> Change:
    """Go back to the version before; see `Registry.rollback`."""
    try:
        return _rollback(wiring, channel, options or RollbackOptions(), reason=reason, only=only, dry_run=dry_run)
    except NothingToRollBackTo:
        if wiring.channel(channel).head() is None:  # is it the right store, and the right model?
            wiring.store.check_holds(wiring.model)
        raise


def _rollback(
    wiring: Wiring, channel: str, options: RollbackOptions, *, reason: str, only: Sequence[str], dry_run: bool
) -> Change:
    log, author = wiring.channel(channel), wiring.author(reason)
    if only:
        from registry.channels.partial_rollback import PartialRollback  # not needed in the common case

        rolling = PartialRollback(log, wiring.bindings, wiring.blobs, only, partial(check_servable, wiring))
        if dry_run:
            plan = rolling.plan(options)
            return _noted(Change.of_rollback(rolling.preview(plan, author), changed=False), plan.note)
        done, note = rolling.roll_back(author, options)
        return _noted(Change.of_rollback(done, changed=done.changed), note)
    if dry_run:
        return Change.of_rollback(log.plan_rollback(author, options, sure=True), changed=False)
    done = log.rollback(author, options)
    return Change.of_rollback(done, changed=done.changed)


def _noted(change: Change, note: str) -> Change:
    return replace(change, notes=(*change.notes, note))

"""Roll a channel back, the whole version or some components. Needs S3 only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from registry.answers import Change
from registry.channels.channel import RollbackOptions
from registry.errors import NothingToRollBackTo, UloraError, first_line
from registry.parallel import within
from registry.usecases.checks import check_servable
from registry.wiring import Wiring

CHAIN_SECONDS = 3.0
"""How long the command looks, after a rollback, at the records that it followed."""


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


def with_chain(wiring: Wiring, change: Change) -> Change:
    """The same change, and whether the record that it follows continues the log.

    Asked after the channel has moved: nothing that is found here may stop or delay a rollback, or look like a failure.
    """
    if change.action == "none" or change.generation < 2:
        return change
    log = wiring.channel(change.channel)
    try:
        problem = within(CHAIN_SECONDS, lambda: log.broken_link(log.read(change.generation - 1)))
    except (UloraError, TimeoutError) as error:
        return _noted(change, f"whether the log is whole was not found out ({first_line(error)}): see `ulora history`")
    return change.on_broken_chain(problem)


def _noted(change: Change, note: str) -> Change:
    return change.with_notes([note])

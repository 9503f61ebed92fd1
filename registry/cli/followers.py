"""`--wait` of `ulora promote` and `ulora rollback`: which replicas serve the change, and with which weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from registry.cli.output import Output, some
from registry.errors import IntegrityError, UloraError
from registry.formats.counts import counted
from registry.parallel import time_limit

if TYPE_CHECKING:
    from registry.answers import Change, Followers, ReplicaStatus
    from registry.api import Registry

_LAST_LOOK_SECONDS = 5.0
"""How much longer than asked it may take to look at the replicas."""


def wait_option(default: float) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """`--wait SECONDS`."""
    return click.option(
        "--wait", default=default, show_default=True, type=click.FloatRange(0, 3600), metavar="SECONDS",
        help="Wait for the replicas, and compare the weights in their memory with the manifest; 0 does not.",
    )  # fmt: skip


def wait_for_followers(registry: Registry, out: Output, change: Change, seconds: float) -> Followers | None:
    """Wait until the replicas serve a change that was made, and say which do; None if they can't be seen."""
    from registry.usecases.replicas import wait_for_followers

    if not seconds > 0:
        return None
    out.say(f"waiting for the replicas, {seconds:g} s at most (--wait 0 does not)")
    try:
        with time_limit(seconds + _LAST_LOOK_SECONDS):
            fleet = wait_for_followers(registry.wiring, change, seconds)
    except UloraError as error:  # the channel has moved: this must not be reported as a failure
        out.note(f"the replicas can't be seen: {error}")
        return None
    if fleet.followed:
        proved = sum(replica.proof == "ok" for replica in fleet.followed)
        out.say(f"it is served by {counted(len(fleet.followed), 'replica')}; {proved} with proof of the weights")
    _note_those_behind(out, fleet.behind, seconds)
    _note_untold(out, fleet.followed)
    return fleet


def check_proofs(fleet: Followers | None, change: Change) -> None:
    """Check that no replica serves something else under the name of what was released.

    Raises:
        IntegrityError: one does.
    """
    seen = (*fleet.followed, *fleet.behind) if fleet else ()
    differing = [replica for replica in seen if replica.proof == "differs"]
    if not differing:
        return
    raise IntegrityError(
        f"{change.channel} is at generation {change.generation}, but {some(replica.id for replica in differing)} "
        f"{'has' if len(differing) == 1 else 'have'} other weights in memory than the manifest of "
        f"{' and '.join(sorted({replica.version for replica in differing}))} names",
        hint="take it out of the traffic and restart it; if that does not help, somebody writes false heartbeats",
    )


def _note_those_behind(out: Output, behind: Sequence[ReplicaStatus], seconds: float) -> None:
    if behind:
        named = some(f"{replica.id} ({_why(replica)})" for replica in behind)
        out.note(
            f"{counted(len(behind), 'replica')} did not follow within {seconds:g} s: {named}; look with `ulora status`"
        )


def _note_untold(out: Output, followed: Sequence[ReplicaStatus]) -> None:
    untold = [replica.id for replica in followed if replica.proof == "not told"]
    if untold:
        verb = "does" if len(untold) == 1 else "do"
        out.note(f"{counted(len(untold), 'replica')} {verb} not say which weights are in memory: {some(untold)}")
    unknown = [replica.id for replica in followed if replica.proof == "unknown"]
    if unknown:
        out.note(f"the manifest to compare with can't be read, for {some(unknown)}: `ulora verify` says why")


def _why(replica: ReplicaStatus) -> str:
    return f"at generation {replica.generation}" + "".join(
        f"; {text}" for text in (replica.loading, replica.error) if text
    )

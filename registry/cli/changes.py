"""What commands say that bring a version into a channel: the checks of the gates, the change, who follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from registry.cli.followers import check_proofs, wait_for_followers
from registry.cli.output import Output, change_sentence, checks

if TYPE_CHECKING:
    from registry.answers import Change
    from registry.api import Registry
    from registry.errors import GateRefused
    from registry.evidence.verdict import Verdict


def judged(out: Output, change: Callable[[], Change]) -> Change:
    """Make a change that the gates judge; of a refusal the checks are shown first.

    Raises:
        GateRefused: a rule was not met. The other errors are those of the change.
    """
    with refusal_shown(out):
        done = change()
    if done.verdict:
        out.say(_overruled(done.verdict) if done.verdict.forced else checks(done.verdict))
    return done


@contextmanager
def refusal_shown(out: Output) -> Iterator[None]:
    """Show the checks of a refusal, and let it go on without them."""
    from registry.errors import GateRefused

    try:
        yield
    except GateRefused as refused:
        if out.as_json:
            raise
        verdict: Verdict = refused.verdict  # type: ignore[assignment]
        out.say(checks(verdict, refusals_only=True))
        raise _without_reasons(refused, verdict) from refused


def answer(registry: Registry, out: Output, done: Change, *, dry_run: bool, wait: float) -> None:
    """Say what a change did, with its notes, then wait so many seconds for the replicas.

    Raises:
        IntegrityError: a replica has other weights in memory than the manifest names.
    """
    out.change(done, change_sentence(done, dry_run))
    for note in done.notes:
        out.note(note)
    if not dry_run:
        check_proofs(wait_for_followers(registry, out, done, wait), done)


def _overruled(verdict: Verdict) -> str:
    """In short: a note of the change names what force overruled."""
    from registry.evidence.check_lines import check_summary

    return f"{verdict.channel}: {check_summary(verdict)}; forced: {verdict.forced}"


def _without_reasons(refused: GateRefused, verdict: Verdict) -> GateRefused:
    """The error after the table of checks, which has the reasons."""
    from registry.errors import GateRefused
    from registry.evidence.check_lines import check_summary

    said = f"{verdict.channel} refuses {verdict.version}: {check_summary(verdict)}"
    return GateRefused(said, hint=refused.hint, verdict=verdict)

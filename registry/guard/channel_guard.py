"""The guard of one channel: look, decide, store the decision, then commit what follows of it.

It keeps nothing that another guard could not find in the store, so two may watch a channel, and one may be killed at
any instant: a decision that was stored and not carried out is one that nothing names. What is carried out is the record
of the generation after the one that was looked at; whoever writes that first, has decided.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from registry.answers import Change
from registry.channels.channel import BACKWARD_ACTIONS
from registry.channels.record import Record
from registry.errors import ChannelMoved, UloraError, first_line
from registry.evidence.policy import Policy, load_policy
from registry.evidence.trial_policy import DEFAULT_PLAN
from registry.guard.alerts import Alerts
from registry.guard.counting import facts_of
from registry.guard.decision import Decision
from registry.guard.decisions import Decisions
from registry.guard.incidents import Incidents
from registry.guard.looked import Looked
from registry.guard.teller import Teller
from registry.parallel import time_limit
from registry.usecases.canary import Canaries
from registry.usecases.mirror import mirror
from registry.usecases.observed import ChannelLook, WatchedChannel
from registry.usecases.options import AbortOptions, AdvanceOptions
from registry.wiring import Wiring

WHO = "guard"
"""Who signs the guard's records."""
_LOOK_SECONDS, _ACT_SECONDS = 30.0, 60.0
_APART = 60.0
"""Seconds between two decisions that are stored although nothing follows of them."""
_FIRST_PAUSE, _LONGEST_PAUSE = 30.0, 600.0
"""Seconds until a decision is tried again that could not be carried out; each time twice as long."""
_MAX_REASON = 2000


@dataclass
class _Refused:
    """A change that could not be made: when it is tried again."""

    what: tuple[int, str, str]
    until: float
    pause: float


class ChannelGuard:
    """Watches one channel."""

    def __init__(
        self, wiring: Wiring, channel: str, teller: Teller, alerts: Alerts, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._wiring, self._channel = wiring.acting_as(WHO), channel
        self._view = WatchedChannel(wiring.store, wiring.channel(channel))
        self._decisions = Decisions(wiring.store, wiring.model)
        self._incidents = Incidents(self._wiring, channel, self._decisions)
        self._teller, self._alerts, self._now = teller, alerts, now
        self._head: Record | None = None
        self._is_known = False
        self._said: tuple[object, ...] | None = None
        self._stored_at = float("-inf")
        self._refused: _Refused | None = None

    def look(self, *, dry_run: bool = False) -> Looked:
        """Look once, and do what follows.

        Raises:
            StoreUnreachable, StoreDenied: the store does not answer, or refuses.
            BadPolicy: the policy can't be read.
            IntegrityError: a record is damaged.
            NotFound: there is no store, or no such model in it.
            UloraError: what follows can't be done, see `registry.usecases.canary`; it is tried again after a pause.
        """
        with time_limit(_LOOK_SECONDS):
            look = self._view.records()
            if look is None:
                self._check_model()
                return Looked(self._channel, summary="no record")
            policy = load_policy(self._wiring.settings.policy)
            decision = self._decide(look, policy)
        if not dry_run:
            self._tell_record(look.head)
            self._finish_incident(look)
        if decision is None:
            return _nothing_tried(look)
        return Looked.of(decision) if dry_run else self._follow(decision)

    def _check_model(self) -> None:
        """Check that the store and the model exist. Once they do, the store is not asked again.

        Raises:
            NotFound: there is no store, or no such model in it.
        """
        if not self._is_known:
            self._wiring.store.check_holds(self._wiring.model)
            self._is_known = True

    # --- deciding ----------------------------------------------------------------------------------------------------

    def _decide(self, look: ChannelLook, policy: Policy) -> Decision | None:
        if not _is_watched(look, policy):
            return None
        facts = facts_of(self._view.with_replicas(look), policy)
        return Decision.of(facts) if facts else None

    def _follow(self, decision: Decision) -> Looked:
        for finding in self._alerts.due(decision.findings):
            self._teller.alert(decision, finding.about, finding.reason)
        if decision.action == "alert":
            self._teller.alert(decision, decision.summary, decision.evidence)
        if decision.acts:
            return self._carry_out(decision)
        if not self._is_news(decision):
            return Looked.of(decision)
        return Looked.of(decision, self._store(decision))

    def _is_news(self, decision: Decision) -> bool:
        """Whether it says something else than the decision before it, and that one is not of just now."""
        if self._said is None:
            before = self._decisions.newest(self._channel)
            self._said = before.says if before else ()
        return decision.says != self._said and self._now() - self._stored_at >= _APART

    def _store(self, decision: Decision) -> str:
        sha256 = self._decisions.add(decision)
        self._said, self._stored_at = decision.says, self._now()
        self._teller.decision(decision, sha256)
        return sha256

    # --- acting ------------------------------------------------------------------------------------------------------

    def _carry_out(self, decision: Decision) -> Looked:
        """Store a decision, then do what it says, if the channel is where it was looked at."""
        what = (decision.facts.record.generation, decision.action, decision.to)
        if self._refused and self._refused.what == what and self._now() < self._refused.until:
            return Looked.of(decision, notes=("it could not be done a moment ago, and is tried again",))
        with time_limit(_ACT_SECONDS):
            sha256 = self._store(decision)
            try:
                done = self._change(decision, sha256)
            except ChannelMoved as moved:
                return Looked.of(decision, sha256, notes=(f"void: {moved}",))
            except UloraError as error:
                self._note_refusal(what)
                self._teller.alert(decision, f"{decision.summary}: could not be done", first_line(error))
                raise
        return Looked.of(decision, sha256, changed=done.changed, notes=(*done.notes, *self._afterwards(decision)))

    def _change(self, decision: Decision, sha256: str) -> Change:
        canary, facts = Canaries(self._wiring), decision.facts
        reason = f"{decision.summary} ({decision.evidence})"[:_MAX_REASON]
        if decision.action == "rollback":
            ending = AbortOptions(expected=facts.record.generation, baked=facts.is_baking, decision=sha256)
            return canary.abort(self._channel, ending, reason=reason)
        going_on = AdvanceOptions(expected=facts.record.generation, decision=sha256)
        return canary.advance(self._channel, float(decision.to), going_on, reason=reason)

    def _note_refusal(self, what: tuple[int, str, str]) -> None:
        same = self._refused if self._refused and self._refused.what == what else None
        pause = min(2 * same.pause, _LONGEST_PAUSE) if same else _FIRST_PAUSE
        self._refused = _Refused(what, self._now() + pause, pause)

    def _afterwards(self, decision: Decision) -> tuple[str, ...]:
        """What follows a change that stands. Whatever fails of it, does not make the change fail."""
        try:
            with time_limit(_LOOK_SECONDS):
                shown = mirror(self._wiring) if decision.action == "rollback" else ()
                look = self._view.records()
                if look:
                    self._tell_record(look.head)
                    return (*shown, *self._finish_incident(look))
                return shown
        except UloraError as error:
            return (f"done; the note on it is written at the next look: {first_line(error)}",)

    # --- records -----------------------------------------------------------------------------------------------------

    def _tell_record(self, head: Record) -> None:
        before, self._head = self._head, head
        if before and before.generation < head.generation:
            self._teller.record(head)

    def _finish_incident(self, look: ChannelLook) -> tuple[str, ...]:
        """Write the note on a rollback by the guard, also by one that was killed before it could."""
        head = look.head
        if head.decision is None or head.action not in BACKWARD_ACTIONS or self._incidents.is_done(head.decision):
            return ()
        self._teller.rolled_back(head)
        return self._incidents.write(look, head.decision)


def _is_watched(look: ChannelLook, policy: Policy) -> bool:
    """Whether a trial runs, or its version is watched on after it."""
    if look.head.running_trial:
        return True
    trial = look.head.baking
    plan = (policy.trial_policy().plans or {}).get(trial.plan or DEFAULT_PLAN) if trial else None
    return plan is not None and look.age(look.head) <= plan.steps[-1].bake_seconds


def _nothing_tried(look: ChannelLook) -> Looked:
    head = look.head
    serves = head.stable.version if head.stable else "nothing"
    if head.canary:
        said = f"{head.canary.version} is in a trial that this release does not know"
        return Looked(head.channel, head.generation, summary=said, problem=said)
    return Looked(head.channel, head.generation, summary=f"no trial runs; it serves {serves}")

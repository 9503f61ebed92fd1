"""Try a version beside stable: start a trial, advance it, end it.

Of a person, a plan and a guard that act at once one wins, as each change is the one record of its generation. The
others get `ChannelMoved`; only a person who ends the trial, whatever its share, ends it at the share that won.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from registry.answers import Change
from registry.channels.channel import MAX_RACES, Channel, PromoteOptions, Rollback
from registry.channels.record import (
    Author,
    ChannelPosition,
    Record,
    aborted,
    on_trial,
    rolled_back,
    trial_advanced,
    trial_started,
)
from registry.channels.trial import StartTrial
from registry.errors import ChannelMoved, NotNow
from registry.evidence.policy import load_policy
from registry.integrity.rebound import check_never_rebound
from registry.names import VersionName
from registry.progress import OpenProgress, Say, open_no_progress, say_nothing
from registry.usecases.options import AbortOptions, AdvanceOptions, CanaryOptions, ReportOptions
from registry.usecases.promote import (
    by_gates,
    check_chain,
    check_expected,
    check_not_frozen,
    check_reasoned,
    check_usable,
    commit,
    heads,
    is_same,
    newest_of,
)
from registry.versions.pointer import Pointer
from registry.wiring import Wiring

if TYPE_CHECKING:
    from registry.usecases.canary_report import CanaryReport
    from registry.usecases.feedback import FeedbackOptions, LabelsTaken


@dataclass(frozen=True)
class Canaries:
    """The trials of a model's versions, one at a time in a channel. In all methods, `dry_run` writes nothing and
    returns what would be done; `reason` is kept on the record.
    """

    wiring: Wiring

    def start(
        self, version: str, channel: str = "production", options: CanaryOptions | None = None, *, reason: str = "",
        dry_run: bool = False,
    ) -> Change:  # fmt: skip
        """Try a version beside the stable one, if every blob is there and the gates pass. The stable version stays.

        Raises:
            NotNow: another trial runs, no version is stable, or the channel is frozen.
            BadInput: the version is stable, the share is out of its bounds, or the policy has no such plan.
            BadPolicy: the policy can't be read.
            GateRefused, ChannelMoved, MissingBlob, CorruptBlob, VersionForgotten, BadWeights, NotTrusted, Overwritten,
                BrokenChain: see `Registry.promote`.
        """
        options, log = options or CanaryOptions(), self.wiring.channel(channel)
        if options.plan is not None:
            load_policy(self.wiring.settings.policy).trial_plan(options.plan)
        step, judged = _Start(options.start), PromoteOptions(options.force, options.expected)
        return by_gates(self.wiring, version, log, step, judged, reason=reason, dry_run=dry_run)

    def advance(
        self, channel: str = "production", to: float = 100.0, options: AdvanceOptions | None = None, *,
        reason: str = "", dry_run: bool = False,
    ) -> Change:  # fmt: skip
        """Give the version on trial a larger share of the keys; at 100 it becomes stable, and is kept an eye on.

        The verdict that let the trial begin stands for it. Done already, it does nothing.

        Raises:
            NotFound: no trial runs.
            BadInput: the share is not larger than now, or it is forced without a reason.
            ChannelMoved: another writer was first, or the channel is not at the generation that the caller saw.
            NotNow: the channel is frozen, or a newer release began the trial.
            MissingBlob, CorruptBlob, VersionForgotten, BadWeights, NotTrusted, Overwritten, BrokenChain: see
                `Registry.promote`.
        """
        options, log = options or AdvanceOptions(), self.wiring.channel(channel)
        check_reasoned(options.force, reason)
        head = self._newest_of(log)
        check_expected(channel, head, options.expected)
        if head and (why := _reached(head, to)):
            return Change.unneeded(head, why)
        position = ChannelPosition(self.wiring.model, channel, head)
        record = trial_advanced(position, self.wiring.author(reason), to, options.decision)
        return self._advance(log, position, record, options, dry_run=dry_run)

    def abort(
        self, channel: str = "production", options: AbortOptions | None = None, *, reason: str = "",
        dry_run: bool = False,
    ) -> Change:  # fmt: skip
        """End the trial: its version is withdrawn, stable stays. Needs S3 only; MLflow is not asked, see `rollback`.

        Raises:
            NotFound: no trial runs.
            ChannelMoved: the channel is not at the generation that the caller saw; or the trial's version has become
                stable meanwhile. Nothing changed.
            NothingToRollBackTo: see `rollback`; only for a version that has become stable.
        """
        options, log = options or AbortOptions(), self.wiring.channel(channel)
        author = self.wiring.author(reason)
        ending: str | None = None
        for _ in range(MAX_RACES):
            head = self._newest_of(log)
            check_expected(channel, head, options.expected)
            if head and _has_ended(head, ending):
                return Change.of_rollback(Rollback(head, ending or "", changed=False), changed=False)
            plan = _ending(ChannelPosition(self.wiring.model, channel, head), author, options)
            if dry_run:
                return Change.of_rollback(plan, changed=False)
            try:
                log.commit(plan.record)
            except ChannelMoved:
                if options.expected is not None:
                    raise
                ending = plan.left
                continue
            return Change.of_rollback(plan, changed=True)
        raise NotNow(f"{channel} moved {MAX_RACES} times while the trial was ended", hint="see `ulora history`")

    def feedback(
        self, labels: Path, channel: str = "production", options: FeedbackOptions | None = None, *,
        progress: OpenProgress = open_no_progress, say: Say = say_nothing,
    ) -> LabelsTaken:  # fmt: skip
        """Count true labels of a CSV file by the receipts of answers; see `registry.usecases.feedback.take_labels`."""
        from registry.usecases.feedback import take_labels  # nothing else here needs to know how versions are served

        return take_labels(self.wiring, Path(labels), channel, options, progress=progress, say=say)

    def report(self, channel: str = "production", options: ReportOptions | None = None) -> CanaryReport:
        """Report a trial that runs, or one of the last days: what each version did, how they differ, and what to do.

        By default it is shown in MLflow too, as a run that is linked to both versions; one for the same counts. If
        MLflow does not take it, a note says so.

        Raises:
            NotFound: there is no such trial, or what was counted in it is not kept any more: 7 days after its end.
            NotNow: a newer release began the trial.
            BadPolicy: the policy can't be read.
            BrokenChain, BadManifest: see `Registry.history`.
        """
        from registry.usecases.canary_report import report

        return report(self.wiring, channel, options or ReportOptions())

    def _newest_of(self, log: Channel) -> Record | None:
        """The newest record of a channel; None for a channel without any.

        Raises:
            NotFound: there is no store, or no such model in it.
        """
        head = newest_of(log)
        if head is None:
            self.wiring.store.check_holds(self.wiring.model)
        return head

    def _advance(
        self, log: Channel, position: ChannelPosition, record: Record, options: AdvanceOptions, *, dry_run: bool
    ) -> Change:
        """Make the record of an advance stand, if the version may still be served."""
        head, canary = on_trial(position)
        frozen = load_policy(self.wiring.settings.policy).frozen(log.name, datetime.now(UTC))
        check_not_frozen(log.name, frozen, force=options.force)
        broken_chain = check_chain(log, head, force=options.force)
        binding = self.wiring.bindings.get(VersionName.parse(canary.version))
        check_never_rebound(binding, heads(self.wiring, log.name, head))
        check_usable(self.wiring, binding)
        if dry_run:
            return Change.of(record, head, changed=False).on_broken_chain(broken_chain)
        self.wiring.check_writable()
        notes = commit(self.wiring, log, record, head, binding)
        return Change.of(record, head, changed=True, notes=notes).on_broken_chain(broken_chain)


@dataclass(frozen=True)
class _Start:
    """The version is tried beside stable."""

    start: StartTrial

    def unneeded(self, head: Record, version: Pointer) -> str:
        trial = head.running_trial
        if trial is None or head.canary is None or not is_same(head.canary, version):
            return ""
        asked = self.start.trial(head.generation)
        is_so = (trial.kind, trial.share(head.canary.weight), trial.plan) == (
            asked.kind, asked.share(self.start.weight), asked.plan,
        )  # fmt: skip
        return f"{version.version} is on trial in {head.channel} already ({head.trial_share})" if is_so else ""

    def record(self, position: ChannelPosition, version: Pointer, author: Author, verdict: str) -> Record:
        return trial_started(position, version, author, verdict, self.start)


def _reached(head: Record, percent: float) -> str:
    """Why an advance has nothing to do; else empty."""
    if head.canary and head.canary.weight == percent:
        return f"{head.canary.version} has {percent:g}% already"
    if head.baking and head.stable and percent == 100:
        return f"{head.stable.version} is stable in {head.channel} already"
    return ""


def _has_ended(head: Record, ending: str | None) -> bool:
    """Whether somebody else has ended the trial of `ending`; or the last one, if the channel did nothing since.

    Raises:
        ChannelMoved: its version has become stable: only the caller can decide whether to leave that.
    """
    if ending is None:
        return head.action == "abort"
    if head.canary and head.canary.version == ending:
        return False
    if ending in head.withdrawn:
        return True
    raise ChannelMoved(
        f"{ending} is not on trial in {head.channel} any more ({head.action} by {head.who}, {head.when}); "
        "nothing changed",
        hint=f"`ulora rollback --from {ending} --channel {head.channel}` leaves it",
    )


def _ending(position: ChannelPosition, author: Author, options: AbortOptions) -> Rollback:
    """The record that ends a trial, or goes back from what it has made stable.

    Raises:
        NotFound: no trial runs.
        NothingToRollBackTo: there is no version to go back to.
    """
    head = position.head
    if options.baked and head and head.baking and head.stable:
        return Rollback(rolled_back(position, author, decision=options.decision), head.stable.version, changed=True)
    _, canary = on_trial(position)
    return Rollback(aborted(position, author, options.decision), canary.version, changed=True)

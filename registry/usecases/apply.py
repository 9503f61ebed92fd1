"""Bring channels to the state that a file in Git wants, by the same gates as everybody's commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from registry.answers import Change
from registry.channels.channel import BACKWARD_ACTIONS, PromoteOptions, Rollback
from registry.channels.record import ChannelPosition, rolled_back
from registry.errors import GateRefused, NotNow
from registry.evidence.verdict import Verdict
from registry.names import CHANNELS
from registry.parallel import in_parallel
from registry.progress import Say, ignore, say_nothing
from registry.usecases import promote as promotions
from registry.usecases.apply_steps import ApplyStep, ChannelPlan, plan_channel
from registry.usecases.canary import Canaries
from registry.usecases.mirror import mirror
from registry.usecases.options import AbortOptions, AdvanceOptions, CanaryOptions
from registry.usecases.rollback import with_chain
from registry.usecases.wanted_channels import WantedChannel, WantedChannels, read_wanted
from registry.wiring import Wiring

_LOOK_BACK = 100
"""Records before the newest one in which a version is looked for that was stable."""


def wanted_state(wiring: Wiring, file: Path) -> WantedState:
    """Read what a file wants of the model's channels; see `Registry.wanted`."""
    wanted = read_wanted(file)
    wanted.check_model(wiring.model)
    return WantedState(wiring, wanted)


@dataclass(frozen=True)
class Preview:
    """What `WantedState.apply` would do in a channel now.

    Attributes:
        plan: the steps; only the first of them can be judged before it is its turn.
        first: what the first step would change; None if there is none, or it would be refused.
        refused: why the gates would refuse the first step; None if they would not.
    """

    plan: ChannelPlan
    first: Change | None = None
    refused: GateRefused | None = None

    @property
    def verdict(self) -> Verdict | None:
        """What the gates say of the first step; None if it is not theirs to judge."""
        if self.refused:
            return self.refused.verdict  # type: ignore[return-value]
        return self.first.verdict if self.first else None


@dataclass(frozen=True)
class WantedState:
    """The state that a file wants of a model's channels; see `Registry.wanted`."""

    wiring: Wiring
    wanted: WantedChannels

    def plan(self, *, reason: str = "", allow_back: bool = False) -> list[Preview]:
        """What has to be done in each channel, and what the gates say of the first step. Writes nothing.

        Raises:
            The errors of `apply`, but for the first two, which a preview holds.
        """
        return [_preview(each, each.plan(allow_back=allow_back)) for each in self._channels(reason)]

    def apply(
        self, *, reason: str = "", allow_back: bool = False, tell: Callable[[Change], None] = ignore,
        say: Say = say_nothing,
    ) -> list[Change]:  # fmt: skip
        """Bring each channel to what is wanted, staging first; `tell` is called with each change once it is made, `say`
        with what is amiss without being a failure.

        If one channel is held nothing is changed in any. A step that is refused ends it: what was done before stands,
        and the same call again goes on there. `allow_back` lets it roll back, and end trials.

        Raises:
            NotNow: a channel is held; see `registry.usecases.apply_steps`.
            GateRefused: the gates refuse a step.
            ChannelMoved, …: see `Registry.promote`, `Registry.rollback` and `Canaries`.
        """
        channels = self._channels(reason)
        plans = [each.plan(allow_back=allow_back) for each in channels]
        _check_not_held(plans)
        changes: list[Change] = []
        try:
            for each, plan in zip(channels, plans, strict=True):
                for change in each.carry_out(plan):
                    changes.append(change)
                    tell(change)
        finally:
            if any(change.action in BACKWARD_ACTIONS for change in changes):  # promotions have done so
                for note in mirror(self.wiring):
                    say(note)
        return changes

    def _channels(self, reason: str) -> list[_ChannelWork]:
        """The channels of the file; staging first, as production may ask that a version was stable there."""
        why = reason or f"applied from a file, sha256 {self.wanted.digest[:12]}"
        wanted = self.wanted.channels
        return [_ChannelWork(self.wiring, name, wanted[name], why) for name in CHANNELS if name in wanted]


@dataclass(frozen=True)
class _ChannelWork:
    """What is wanted of one channel, and how its changes are signed."""

    wiring: Wiring
    channel: str
    wanted: WantedChannel
    reason: str

    def plan(self, *, allow_back: bool) -> ChannelPlan:
        """The steps from what the channel serves now."""
        log = self.wiring.channel(self.channel)
        plan = plan_channel(self.channel, promotions.newest_of(log), self.wanted, allow_back=allow_back)
        if allow_back or not plan.new_stable:
            return plan
        earlier = range(max(1, plan.generation - _LOOK_BACK), plan.generation)
        return plan.held_if_left(in_parallel(log.read, earlier))

    def carry_out(self, plan: ChannelPlan) -> Iterator[Change]:
        """Take the steps, each only if the channel is where the one before left it."""
        generation = plan.generation
        for step in plan.steps:
            change = self.take(step, generation, dry_run=False)
            generation = change.generation
            yield change

    def take(self, step: ApplyStep, generation: int, *, dry_run: bool) -> Change:
        """Take one step from the record of this generation, or say what it would do."""
        canaries, channel, why = Canaries(self.wiring), self.channel, self.reason
        match step.action:
            case "promote":
                new = PromoteOptions(expected=generation)
                return promotions.promote(self.wiring, step.version, channel, new, reason=why, dry_run=dry_run)
            case "rollback":
                return self._roll_back(step.version, generation, dry_run=dry_run)
            case "canary":
                trial = replace(self._trial, expected=generation)
                return canaries.start(step.version, channel, trial, reason=why, dry_run=dry_run)
            case "advance":
                further = AdvanceOptions(expected=generation)
                return canaries.advance(channel, step.percent, further, reason=why, dry_run=dry_run)
        return canaries.abort(channel, AbortOptions(expected=generation), reason=why, dry_run=dry_run)

    def _roll_back(self, to: str, generation: int, *, dry_run: bool) -> Change:
        """Go back from the record of this generation only. `Registry.rollback` goes on after another writer's record
        if that serves the same version, and so would end a trial that somebody has just started beside it."""
        log = self.wiring.channel(self.channel)
        head = promotions.newest_of(log)
        promotions.check_expected(self.channel, head, generation)
        position = ChannelPosition(self.wiring.model, self.channel, head)
        record = rolled_back(position, self.wiring.author(self.reason), to)
        left = head.stable.version if head and head.stable else ""
        change = Change.of_rollback(Rollback(record, left, changed=True), changed=not dry_run)
        if dry_run:
            return change
        log.commit(record)
        return with_chain(self.wiring, change)

    @property
    def _trial(self) -> CanaryOptions:
        return self.wanted.canary.options if self.wanted.canary else CanaryOptions()


def _check_not_held(plans: list[ChannelPlan]) -> None:
    held = [f"{plan.channel}: {plan.held}" for plan in plans if plan.held]
    if held:
        raise NotNow(
            f"{'; '.join(held)}; nothing changed",
            hint="edit the file to what the channel serves now (`ulora status`), or change the channel by hand",
        )


def _preview(channel: _ChannelWork, plan: ChannelPlan) -> Preview:
    if not plan.steps:
        return Preview(plan)
    try:
        return Preview(plan, channel.take(plan.steps[0], plan.generation, dry_run=True))
    except GateRefused as refused:
        return Preview(plan, refused=refused)

"""What brings a channel from what it serves to what a file wants. Pure: no I/O.

Going back is never guessed. A file that was not edited for a week must not undo what the guard or a person did
meanwhile: a version that was rolled back is not promoted again, a version that the guard made stable is not left, and
other steps back (a rollback, the end of a trial) are taken only where the caller allows them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Self

from registry.channels.record import Record
from registry.channels.trial import Trial
from registry.usecases.wanted_channels import WantedChannel, WantedTrial

Action = Literal["promote", "rollback", "canary", "advance", "abort"]
_BACK: tuple[Action, ...] = ("rollback", "abort")


@dataclass(frozen=True)
class ApplyStep:
    """One change of a channel. `version` is the one that it is about, `percent` the share that an advance reaches."""

    action: Action
    version: str
    percent: float = 0.0

    def __str__(self) -> str:
        match self.action:
            case "promote":
                return f"promote {self.version}, if the gates pass"
            case "rollback":
                return f"roll back to {self.version}"
            case "canary":
                return f"start the trial of {self.version}, if the gates pass"
            case "advance":
                return f"give {self.version} {self.percent:g}% of the keys" if self.percent < 100 else (
                    f"make {self.version} stable: its trial ends"
                )  # fmt: skip
        return f"end the trial of {self.version}"


@dataclass(frozen=True)
class ChannelPlan:
    """What has to be done in a channel.

    Attributes:
        generation: of the record that the plan was made for; 0 for a channel without one.
        steps: in order; empty if nothing has to be done.
        held: why nothing is done although the channel differs from the file; empty if nothing keeps it.
        note: what else to know, e.g. that a trial is further than the file says.
    """

    channel: str
    generation: int
    steps: tuple[ApplyStep, ...] = ()
    held: str = ""
    note: str = ""

    @property
    def new_stable(self) -> str:
        """The version that becomes stable by a step forward; empty if none does."""
        forward = (step for step in self.steps if step.action == "promote" or step.percent == 100)
        return next((step.version for step in forward), "")

    def held_if_left(self, earlier: Iterable[Record]) -> Self:
        """The same; or held, if that version was stable in one of these records, and the channel has left it since.

        The stack forgets such a version after some promotions, and who tries it once more takes it off the withdrawn.
        """
        version = self.new_stable
        if not version or all(record.stable is None or record.stable.version != version for record in earlier):
            return self
        why = f"{version} was stable here before, and was left: it is made stable again with --allow-back, or by hand"
        return replace(self, steps=(), held=why)


class _Held(Exception):
    """A step that is not taken by itself."""


@dataclass(frozen=True)
class _State:
    """What matters of a channel's record."""

    stable: str | None
    canary: str | None
    weight: float
    trial: Trial | None
    withdrawn: frozenset[str]
    targets: tuple[str, ...]

    @classmethod
    def of(cls, head: Record | None) -> Self:
        if head is None:
            return cls(None, None, 0.0, None, frozenset(), ())
        return cls(
            head.stable.version if head.stable else None,
            head.canary.version if head.canary else None,
            head.canary.weight if head.canary else 0.0,
            head.running_trial,
            frozenset(head.withdrawn),
            tuple(pointer.version for pointer in head.rollback_targets()),
        )


def plan_channel(channel: str, head: Record | None, wanted: WantedChannel, *, allow_back: bool) -> ChannelPlan:
    """The steps from a channel's newest record to what is wanted.

    Args:
        allow_back: whether a rollback and the end of a trial may be among them.
    """
    generation = head.generation if head else 0
    try:
        steps, note = _steps(_State.of(head), wanted)
        back = next((step for step in steps if step.action in _BACK), None)
        if back and not allow_back:
            raise _Held(f"it would {back}, and steps back are taken with --allow-back only")
    except _Held as why:
        return ChannelPlan(channel, generation, held=str(why))
    return ChannelPlan(channel, generation, steps, note=note)


def _steps(state: _State, wanted: WantedChannel) -> tuple[tuple[ApplyStep, ...], str]:
    """The steps, and a note.

    Raises:
        _Held: the channel is where only a person can decide.
    """
    if state.canary is None:
        return _to_stable_and_trial(state, wanted), ""
    if wanted.canary and (state.canary, state.stable) == (wanted.canary.version, wanted.stable):
        return _on_with_trial(state, wanted.canary)
    if state.canary == wanted.stable:
        done = replace(state, stable=state.canary, canary=None)
        return (ApplyStep("advance", state.canary, 100.0), *_to_trial(done, wanted)), ""
    ended = replace(state, canary=None, withdrawn=state.withdrawn | {state.canary})
    return (ApplyStep("abort", state.canary), *_to_stable_and_trial(ended, wanted)), ""


def _to_stable_and_trial(state: _State, wanted: WantedChannel) -> tuple[ApplyStep, ...]:
    """No trial runs: the steps to the wanted state."""
    first, trial = _to_stable(state, wanted), wanted.canary
    if trial and first and first[0].action == "rollback":
        left = (state.stable, *state.targets[: state.targets.index(wanted.stable)])
        if trial.version in left:
            raise _Held(
                f"the rollback to {wanted.stable} withdraws {trial.version}: take `canary` out of the file, and start "
                "it by hand afterwards"
            )
    return (*first, *_to_trial(state, wanted))


def _to_stable(state: _State, wanted: WantedChannel) -> tuple[ApplyStep, ...]:
    """No trial runs: the step that makes the wanted version stable."""
    if state.stable == wanted.stable:
        return ()
    if wanted.canary and state.stable == wanted.canary.version:
        raise _Held(f"{state.stable} is stable since its trial: say `stable: {state.stable}` in the file")
    if wanted.stable in state.withdrawn:
        raise _Held(
            f"{wanted.stable} was rolled back here, and is not promoted again by itself: take it out of the file, or "
            "promote it by hand"
        )
    if wanted.stable in state.targets:
        return (ApplyStep("rollback", wanted.stable),)
    return (ApplyStep("promote", wanted.stable),)


def _to_trial(state: _State, wanted: WantedChannel) -> tuple[ApplyStep, ...]:
    """No trial runs any more, and the wanted version is stable: the step that starts the wanted trial."""
    if wanted.canary is None:
        return ()
    if wanted.canary.version in state.withdrawn:
        raise _Held(
            f"{wanted.canary.version} was rolled back here, or its trial was ended: take `canary` out of the file, or "
            "start it by hand"
        )
    return (ApplyStep("canary", wanted.canary.version),)


def _on_with_trial(state: _State, wanted: WantedTrial) -> tuple[tuple[ApplyStep, ...], str]:
    """The wanted trial runs: its share may have to grow."""
    start, running = wanted.start, state.trial
    kind = running.kind if running else "split"
    if kind != start.kind or (running and running.plan != start.plan):
        raise _Held(f"the trial of {state.canary} is of another kind or plan than the file wants: that is a new trial")
    if kind != "split":
        is_same = running is not None and running.shadow_percent == start.percent
        if not is_same:
            raise _Held(f"the share of the {kind} trial of {state.canary} can't be changed: that is a new trial")
        return (), ""
    if start.percent > state.weight:
        return (ApplyStep("advance", wanted.version, start.percent),), ""
    further = f"{state.canary} has {state.weight:g}% already" if state.weight > start.percent else ""
    return (), further

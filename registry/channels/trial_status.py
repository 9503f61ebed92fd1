"""What the newest record of a channel says of a trial, for people and programs that look at a channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from registry.channels.record import Record


@dataclass(frozen=True)
class TrialStatus:
    """A trial that runs, or whose version has become stable and is watched on.

    Attributes:
        share: how much of the traffic takes part, for people: `10%`, `shadow 100%`.
        percent: the canary's share of the keys, 0 in a shadow trial; `shadow_percent` that of the requests which both
            versions compute, None in a split trial.
        plan: by which the guard advances it; None where people do.
        started_generation: the record that began it; `generation` the one that began its stage, at `since`.
        is_baking: whether its version is stable by now.
    """

    id: str
    kind: str
    share: str
    percent: float
    shadow_percent: float | None
    plan: str | None
    started_generation: int
    generation: int
    since: str
    is_baking: bool

    @classmethod
    def of(cls, head: Record) -> Self | None:
        """The trial of a channel whose newest record this is; None if there is none."""
        trial = head.running_trial or head.baking
        if trial is None:
            return None
        return cls(
            id=trial.id,
            kind=trial.kind,
            share=head.trial_share or "100%",
            percent=head.canary.weight if head.canary else 100.0,
            shadow_percent=trial.shadow_percent if head.canary else None,
            plan=trial.plan,
            started_generation=trial.started_generation,
            generation=head.generation,
            since=head.when,
            is_baking=head.baking is not None,
        )

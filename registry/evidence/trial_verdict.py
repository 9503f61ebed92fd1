"""What to do about a version on trial: one verdict, by what the policy has declared before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from registry.evidence.arm_stats import ShareDifference
from registry.evidence.number_text import points
from registry.evidence.trial_differences import EventDifference, TimeDifference, UnitShare
from registry.evidence.trial_figures import ArmFigures, TrialEvent
from registry.evidence.trial_policy import Horizon
from registry.formats.counts import counted
from registry.trials.observations import ArmName

_SMALL = 0.0001
"""Smaller p-values tell people nothing more."""
TrialOutcome = Literal["ship", "keep", "keep running", "broken"]
_DID: Mapping[str, str] = {"asked": "asked", "labelled": "got the label of a class", "ood": "got the label _ood"}
_WORSE: Mapping[TrialEvent, str] = {
    "error": "more errors than stable",
    "wrong": "less accurate than stable",
    "alarmed": "it flags more images of the classes as OOD than stable",
    "missed": "it flags fewer images of something else as OOD than stable",
}


@dataclass(frozen=True)
class TrialVerdict:
    """`ship`: give it to everybody. `keep`: keep stable. `keep running`: it is too early. `broken`: the arms are not
    comparable, so nothing can be said of the version. With the reasons, each a sentence without a full stop."""

    outcome: TrialOutcome
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class TrialEvidence:
    """What the verdict is made from."""

    arms: Mapping[ArmName, ArmFigures]
    events: Mapping[TrialEvent, EventDifference]
    time: TimeDifference
    shares: tuple[UnitShare, ...]
    horizon: Horizon
    has_ended: bool

    @property
    def labelled(self) -> int:
        """Labelled units of the arm with fewer of them; of a shadow trial those that both versions answered."""
        pairs = self.events["wrong"].pairs
        return pairs.n if pairs else min(arm.labelled for arm in self.arms.values())

    @property
    def is_at_horizon(self) -> bool:
        """Whether there are as many as were declared."""
        return self.labelled >= self.horizon.units

    def verdict(self) -> TrialVerdict:
        """Broken before harm before everything else."""
        if broken := tuple(self._broken()):
            return TrialVerdict("broken", broken)
        if harm := tuple(self._harm()):
            return TrialVerdict("keep", harm)
        if not self.is_at_horizon:
            return self._too_early()
        if obstacles := tuple(self._obstacles()):
            return TrialVerdict("keep", obstacles)
        return TrialVerdict("ship", tuple(self._gains()))

    def _too_early(self) -> TrialVerdict:
        of = f"{self.labelled:,} of {self.horizon.units:,} labelled units of either version"
        if self.has_ended:
            return TrialVerdict("keep", (f"the trial ended before its horizon: {of}",))
        return TrialVerdict("keep running", (f"the horizon is not reached: {of}",))

    def _broken(self) -> Iterator[str]:
        at_the_end = self.is_at_horizon or self.has_ended
        for each in self.shares:
            if each.is_broken(at_the_end=at_the_end):
                yield (
                    f"{100 * each.share:.3g}% of the units that {_DID[each.event]} in generation {each.generation} are "
                    f"the canary's, and should be {100 * each.found.share:g}%: the arms are not comparable"
                )

    # --- harm: significant and sizeable ------------------------------------------------------------------------------

    def _harm(self) -> Iterator[str]:
        for event, said in _WORSE.items():
            found = self.events[event]
            if found.difference and self._is_worse(found, found.difference) and self._is_sizeable(event):
                yield f"{said}: {_accuracy(found.difference) if event == 'wrong' else _points(found.difference)}"
        time, most = self.time, 1 + self.horizon.min_latency_gain
        is_slower = time.looks.is_worse or (self.is_at_horizon and self._is_sure(time.p_value) and _is_mostly(time))
        if time.ratio is not None and time.ratio > most and is_slower:
            yield f"it computes {time.ratio:.3g} times as long as stable, in the median of {_windows(time)}"

    def _is_worse(self, found: EventDifference, difference: ShareDifference) -> bool:
        at_once = self.is_at_horizon and difference.value > 0 and self._is_sure(difference.p_value)
        return found.looks.is_worse or at_once

    def _is_sizeable(self, event: TrialEvent) -> bool:
        difference, rate = self.events[event].difference, self.arms["canary"].rates[event].value
        if event == "error":
            return rate is not None and rate >= self.horizon.max_error_rate
        return difference is not None and difference.value > self.horizon.margin

    def _is_sure(self, p_value: float) -> bool:
        return p_value < self.horizon.significance

    # --- at the horizon ----------------------------------------------------------------------------------------------

    def _obstacles(self) -> Iterator[str]:
        horizon, wrong, errors = self.horizon, self.events["wrong"].difference, self.arms["canary"].rates["error"]
        if wrong is None or wrong.high > horizon.margin:
            known = _accuracy(wrong) if wrong else "no labels"
            yield f"an accuracy {points(horizon.margin)} lower than stable's is not excluded: {known}"
        if errors.value is None or errors.value >= horizon.max_error_rate:
            yield f"{errors.x} of {errors.n} units got an error, and fewer than {100 * horizon.max_error_rate:g}% may"
        if not list(self._gains()):
            yield (
                f"no gain: neither {points(horizon.min_accuracy_gain)} of accuracy nor "
                f"{100 * horizon.min_latency_gain:g}% of compute time, at p < {horizon.significance:g}"
                + (f"; {_accuracy(wrong)}" if wrong else "")
                + (f"; compute time: {_times(self.time)}" if self.time.ratio is not None else "; no windows are kept")
            )

    def _gains(self) -> Iterator[str]:
        wrong, time = self.events["wrong"].difference, self.time
        if wrong and -wrong.value >= self.horizon.min_accuracy_gain and self._is_sure(wrong.p_value):
            yield f"more accurate than stable: {_accuracy(wrong)}"
        is_faster = self._is_sure(time.p_value) and not _is_mostly(time)
        if time.ratio is not None and time.ratio <= 1 - self.horizon.min_latency_gain and is_faster:
            yield f"it computes faster than stable: {_times(time)}"


def _is_mostly(time: TimeDifference) -> bool:
    """Whether the canary was slower in most windows."""
    return 2 * time.slower > time.windows


def _accuracy(wrong: ShareDifference) -> str:
    return "accuracy " + _points(ShareDifference(-wrong.value, -wrong.high, -wrong.low, wrong.p_value))


def _points(found: ShareDifference) -> str:
    return (
        f"{100 * found.value:+.3g} points ({100 * found.low:+.3g} to {100 * found.high:+.3g}), {_chance(found.p_value)}"
    )


def _times(time: TimeDifference) -> str:
    return f"{time.ratio:.3g} times stable's, slower in {time.slower} of {_windows(time)}, {_chance(time.p_value)}"


def _windows(time: TimeDifference) -> str:
    return counted(time.windows, "window")


def _chance(p_value: float) -> str:
    return f"p = {p_value:.2g}" if p_value >= _SMALL else f"p < {_SMALL:g}"

"""Which stage of a trial a record begins."""

from __future__ import annotations

from registry.channels.record import Record
from registry.channels.trial import Trial
from registry.trials.observations import TrialStage

_KINDS = ("split", "shadow")


def known_trial(record: Record) -> Trial | None:
    """The trial of a record's canary; None if none runs, or one of a kind that only a newer release knows."""
    trial = record.running_trial
    return trial if trial and trial.kind in _KINDS else None


def stage_of_record(record: Record) -> TrialStage | None:
    """The stage that a record begins; None for one that serves nothing."""
    trial, canary = known_trial(record), record.canary
    if record.stable is None:
        return None
    if trial is None or canary is None:
        return TrialStage(record.generation, record.stable.version)
    shadow = trial.shadow_percent or 0.0
    return TrialStage(
        record.generation, record.stable.version, canary.version, trial.id, trial.kind,
        shadow if trial.kind == "shadow" else canary.weight,
    )  # fmt: skip

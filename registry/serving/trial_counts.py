"""What a replica's rows count for in a trial: turns what the scheduler tells into counts of units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, SupportsFloat

from registry.errors import BadInput, Expired, Overloaded, ReplicaClosed
from registry.serving.loaders import Loaded, TellsComponents
from registry.serving.observer import RowOutcome, SettledRow
from registry.serving.routing import Route
from registry.trials.recorder import Counted, Recorder

_STATUS = ((BadInput, "400"), (Overloaded, "429"), (ReplicaClosed, "503"), (Expired, "504"))
"""Errors that are not the version's, and the counter of each: the status code over HTTP."""
_LATE, _FAILED, _NOT_FINITE = "late", "500", "not_finite"


class TrialCounts:
    """Tells a recorder what became of rows. Any thread may call it; each call takes microseconds."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def batch_taken(self, waited: Sequence[float]) -> None:
        """Nothing: only what becomes of rows is counted."""

    def batch_computed(self, seconds: float) -> None:
        """Nothing: only what becomes of rows is counted."""

    def settled(self, rows: Sequence[SettledRow]) -> None:
        """Count each row in its stage, or why it is left out."""
        for row in rows:
            if row.route.stage is not None:
                self._count(row, row.route)

    def answered_again(self, route: Route, answer: Any) -> None:
        """Count an answer that was kept from an earlier request."""
        self.settled([SettledRow(route, RowOutcome(answer))])

    def _count(self, row: SettledRow, route: Route) -> None:
        stage, arm, recorder = route.stage, route.counts_for, self._recorder
        if stage is None:
            return
        left_out = route.left_out or ("shed" if route.shadow and row.shadow is None else "")
        if left_out:
            recorder.count(stage, arm, left_out)
            return
        answered = counted(row.outcome, route.loaded, seconds=row.seconds, is_late=row.is_late)
        shadowed = counted(row.shadow, route.shadow) if route.shadow and row.shadow else None
        if shadowed is None:
            recorder.record(stage, arm, route.unit, answered)
        else:
            recorder.record_pair(stage, route.unit, answered, shadowed)
            if shadowed.outcome == _NOT_FINITE:
                recorder.failed(stage, "canary", "not_finite")
        if answered.outcome == _NOT_FINITE:
            recorder.failed(stage, arm, "not_finite")


def counted(outcome: RowOutcome, loaded: Loaded, *, seconds: float | None = None, is_late: bool = False) -> Counted:
    """What one version did with one image.

    Args:
        seconds: from admission to the answer.
        is_late: nobody waited for it any more, so a client got an error.
    """
    if outcome.error is not None:
        name = _status_of(outcome.error, outcome.while_reading)
        return Counted(name, error=name == _FAILED, compute_seconds=outcome.compute_seconds, request_seconds=seconds)
    try:
        name, label, flagged = _said(outcome.answer)
        broken = has_no_numbers(outcome.answer, loaded)
    except Exception:  # a flavor's own kind of answer: what can't be read is the version's error
        name, label, flagged, broken = _FAILED, None, False, False
    return Counted(
        _NOT_FINITE if broken else _LATE if is_late else name,
        error=is_late or broken or name == _FAILED,
        flagged=flagged and not broken,
        label=label,
        compute_seconds=outcome.compute_seconds,
        request_seconds=seconds,
    )


def has_no_numbers(answer: Any, loaded: Loaded) -> bool:
    """Whether a version computed what is no number, or none that is finite: it flags such an image without a score, and
    where its router did so, the chosen target has no probability at all."""
    if answer is None:
        return False
    numbers = (getattr(answer, "confidence", 0.0), getattr(answer, "target_confidence", 1.0))
    if not all(_is_finite(number) for number in numbers):
        return True
    if getattr(answer, "is_ood", False) and getattr(answer, "ood_score", None) is None:
        return True
    if answer.outcome != "router_uncertain" or numbers[1] != 0.0:
        return False
    return isinstance(loaded, TellsComponents) and loaded.has_router


def _is_finite(number: object) -> bool:
    return isinstance(number, SupportsFloat) and math.isfinite(number)


def _said(answer: Any) -> tuple[str, str | None, bool]:
    """The outcome, the label and the flag of an answer.

    Raises:
        Exception: it has none, or others than texts; of any kind, because attributes of a flavor's answer may raise.
    """
    if answer is None:
        return "", None, False
    name, label = answer.outcome, getattr(answer, "label", None)
    if not isinstance(name, str) or not isinstance(label, str | None):
        raise TypeError("the outcome or the label of an answer is no text")
    return name, label, bool(getattr(answer, "is_ood", False))


def _status_of(error: BaseException, while_reading: bool) -> str:
    """The counter of an error; an argument of a wrong type is the caller's mistake, and not the version's."""
    if while_reading and isinstance(error, TypeError):
        return "400"
    return next((name for kind, name in _STATUS if isinstance(error, kind)), _FAILED)

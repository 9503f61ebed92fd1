"""An image that waits for its answer."""

from __future__ import annotations

import math
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from registry.serving import rows as of_versions
from registry.serving.byte_budget import HeldBytes
from registry.serving.loaders import Loaded, Prediction, PreparedRow
from registry.serving.observer import RowOutcome, SettledRow
from registry.serving.routing import Route

LATE_SECONDS = 1.0
"""Seconds after its deadline for which a row that is being computed is waited for."""


@dataclass(eq=False)
class ShadowRow:
    """The same image for the canary of a shadow trial.

    Attributes:
        loaded: None once nothing will be computed any more.
        image, target: what it reads itself; None if it has adopted the row of stable.
        prepared: None until it was read.
        held: the bytes of the image.
        outcome: what the canary made of it; None until then, and for ever if there was no time.
    """

    loaded: Loaded | None
    image: Any = None
    target: Any = None
    prepared: PreparedRow | None = None
    held: HeldBytes | None = None
    outcome: RowOutcome | None = None

    def read(self) -> None:
        """Read the image, unless that is done. What fails, or needs no computing, is the outcome."""
        if self.loaded is None or self.prepared is not None or self.outcome is not None:
            return
        try:
            self.prepared = of_versions.prepare(self.loaded, self.image, self.target)
            if self.prepared.answer is not None:
                self.outcome = RowOutcome(self.prepared.answer)
        except BaseException as error:  # of any kind: it is only told
            self.outcome = RowOutcome(error=error, while_reading=True)

    def release(self) -> None:
        """Let the version and the pixels leave memory."""
        self.loaded = self.image = self.prepared = None
        if self.held is not None:
            self.held.release()


@dataclass(eq=False)
class AdmittedRow:
    """One image that was admitted.

    Attributes:
        expires: when it need not be answered any more, on the monotonic clock; never without a deadline.
        held: bytes that it holds of the budget.
        since: when it was admitted.
        prepared: None until it was read.
        shadow: in a shadow trial, the same image for the canary; None if that is not asked.
        was_shed: whether the canary is not asked because there is no time.
        future: when it is done, the row has neither route nor image any more.
    """

    route: Route
    image: Any
    target: Any
    expires: float
    held: int
    since: float
    prepared: PreparedRow | None = None
    outcome: RowOutcome | None = None
    shadow: ShadowRow | None = None
    was_shed: bool = False
    future: Future[Prediction] = field(default_factory=Future)

    @property
    def loaded(self) -> Loaded:
        """The version that answers it."""
        return self.route.loaded

    @property
    def has_deadline(self) -> bool:
        """Whether its answer is late some day."""
        return self.expires < math.inf

    @property
    def shadow_outcome(self) -> RowOutcome | None:
        """What the canary made of it, in a shadow trial."""
        return self.shadow.outcome if self.shadow else None

    def take_shadow(self) -> ShadowRow | None:
        """What the canary will compute after this row's answer; whoever takes it releases it."""
        shadow, self.shadow = self.shadow, None
        return shadow

    def shed(self) -> None:
        """Do not ask the canary."""
        if (shadow := self.take_shadow()) is not None:
            shadow.release()
            self.was_shed = True

    def settled(self, outcome: RowOutcome, now: float) -> SettledRow:
        """What is told of it, before its future is done."""
        is_late = now > self.expires + LATE_SECONDS
        return SettledRow(self.route, outcome, self.shadow_outcome, now - self.since, is_late, self.was_shed)

    def give(self, outcome: RowOutcome) -> None:
        """Let its future have the answer or the error."""
        if outcome.error is not None:
            self.future.set_exception(outcome.error)
        elif outcome.answer is not None:
            self.future.set_result(outcome.answer)

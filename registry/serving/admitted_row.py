"""An image that waits for its answer."""

from __future__ import annotations

import math
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from registry.serving.loaders import Loaded, Prediction, PreparedRow


@dataclass(eq=False)
class AdmittedRow:
    """One image that was admitted.

    Attributes:
        expires: when it need not be answered any more, on the monotonic clock; never without a deadline.
        held: bytes that it holds of the budget.
        since: when it was admitted.
        prepared: None until it was read.
        future: when it is done, the row has neither version nor image any more.
    """

    loaded: Loaded
    image: Any
    target: Any
    expires: float
    held: int
    since: float
    prepared: PreparedRow | None = None
    future: Future[Prediction] = field(default_factory=Future)

    @property
    def has_deadline(self) -> bool:
        """Whether its answer is late some day."""
        return self.expires < math.inf

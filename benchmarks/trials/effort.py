"""How much is simulated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrialEffort:
    """How much is simulated, or measured.

    Attributes:
        runs: simulated trials of each kind.
        seed: of the first one.
        quick: whether what is not simulated is only shown to run.
    """

    runs: int = 400
    seed: int = 0
    quick: bool = False

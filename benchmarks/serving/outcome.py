"""What a part of the benchmark found, and how parts are told what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.comparison import Budget


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        sizes: of backbones: `tiny`, `vit-b`.
        scale: of all durations and numbers; 1 for the full measurement.
        packages: a folder with packages that only rivals need; None where they are installed, or are left out.
    """

    sizes: Sequence[str] = ("tiny", "vit-b")
    scale: float = 1.0
    packages: Path | None = None

    def of(self, amount: float, least: float) -> float:
        """So much of the full amount, but not less than `least`."""
        return max(least, amount * self.scale)

    def count(self, amount: int, least: int) -> int:
        """The same for whole numbers."""
        return int(self.of(amount, least))


@dataclass(frozen=True)
class Found:
    """Figures by name, and those that have a budget."""

    figures: Mapping[str, Any] = field(default_factory=dict)
    budgets: Sequence[Budget] = ()

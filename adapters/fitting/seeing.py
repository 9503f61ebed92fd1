"""Features of images as the runtime gives them that will serve: through the bank, not through the model that trains."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeAlias

import torch

from adapters.answer.features import Tap
from adapters.answer.heads import Features
from adapters.answer.loaded import MAX_BATCH
from adapters.backbone.preprocess import Preprocessing
from adapters.bank.bank import Slot
from adapters.fitting.lora_training import Progress
from adapters.runtimes.runtimes import Runtime

Change: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""What is done to a batch of normalised images [N, 3, H, W] before they are seen."""


def unchanged(pixels: torch.Tensor) -> torch.Tensor:
    """The images as they are."""
    return pixels


@dataclass(frozen=True)
class Eyes:
    """A runtime, and how images come to it. `told` hears of the progress."""

    runtime: Runtime
    preprocessing: Preprocessing
    told: Progress

    @torch.no_grad()
    def features(
        self, squares: torch.Tensor, slot: Slot | None, taps: Collection[Tap], what: str, change: Change = unchanged
    ) -> Features:
        """What an adapter (None for the backbone alone) makes of images, on the CPU.

        Args:
            squares: [N, H, W, 3] uint8.
            what: a word for the progress.

        Returns:
            Per tap [N, width] float32.
        """
        hidden = int(self.runtime.ref.config["hidden_size"])
        found = {tap: torch.empty(len(squares), tap.width(hidden)) for tap in sorted(set(taps))}
        for start in range(0, len(squares), MAX_BATCH):
            self.told(what, start, len(squares))
            rows = slice(start, start + MAX_BATCH)
            pixels = change(self.preprocessing.normalise(squares[rows])).to(self.runtime.device)
            walk = self.runtime.start(pixels, [slot] * len(pixels))
            for tap, features in found.items():
                walk.advance(tap.block)
                features[rows] = walk.pooled(tap.pooling, tap.norm).cpu()
        self.told(what, len(squares), len(squares))
        return found

"""Compute features of images with the runtime that will serve, adapters included."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeAlias

import torch

from adapters.answer.batching import MAX_BATCH
from adapters.answer.heads import Features
from adapters.backbone.features import FeatureSpec
from adapters.backbone.preprocess import Preprocessing
from adapters.bank.slots import Slot
from adapters.fitting.lora_training import Progress
from adapters.runtimes.interface import Runtime

PixelTransform: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Changes a batch of normalised images [N, 3, H, W] before the forward pass."""


def unchanged(pixels: torch.Tensor) -> torch.Tensor:
    """The images as they are."""
    return pixels


@dataclass(frozen=True)
class FeatureExtractor:
    """A runtime with the preprocessing of its images. `progress` is called for each batch."""

    runtime: Runtime
    preprocessing: Preprocessing
    progress: Progress

    @torch.no_grad()
    def features(
        self,
        squares: torch.Tensor,
        slot: Slot | None,
        specs: Collection[FeatureSpec],
        what: str,
        change: PixelTransform = unchanged,
    ) -> Features:
        """Features of images with an adapter, or with None of the backbone alone, on the CPU.

        Args:
            squares: [N, H, W, 3] uint8.
            what: a word for `progress`.

        Returns:
            [N, width] float32 for each spec.
        """
        hidden = int(self.runtime.ref.config["hidden_size"])
        found = {spec: torch.empty(len(squares), spec.width(hidden)) for spec in sorted(set(specs))}
        for start in range(0, len(squares), MAX_BATCH):
            self.progress(what, start, len(squares))
            rows = slice(start, start + MAX_BATCH)
            pixels = change(self.preprocessing.normalise(squares[rows])).to(self.runtime.device)
            forward_pass = self.runtime.start(pixels, [slot] * len(pixels))
            for spec, features in found.items():
                forward_pass.advance(spec.block)
                features[rows] = forward_pass.pooled(spec.pooling, spec.norm).cpu()
        self.progress(what, len(squares), len(squares))
        return found

"""What every runtime offers: a backbone in memory, its bank of adapters, and forward passes block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from adapters.bank.slots import Bank, Slot
from registry.versions.manifest import BackboneRef

REFERENCE = "torch-fp32"


class ForwardPass(Protocol):
    """A batch on its way through the blocks of a backbone."""

    @property
    def block(self) -> int:
        """How many blocks the batch has passed."""

    def advance(self, block: int) -> None:
        """Compute up to and including block number `block`."""

    def pooled(self, pooling: str, norm: bool) -> torch.Tensor:
        """Features of the remaining rows after the current block: [n, width] float32; see `FeatureSpec`."""

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these: [k] positions among the remaining rows, ascending."""


class Runtime(Protocol):
    """A backbone in memory with the bank of adapters on it. Threads share it."""

    @property
    def name(self) -> str:
        """Its name, e.g. `torch-fp32`."""

    @property
    def device(self) -> str:
        """Where it runs, e.g. `cpu`."""

    @property
    def ref(self) -> BackboneRef:
        """The reference of the backbone."""

    @property
    def bank(self) -> Bank:
        """The adapters on the backbone."""

    def start(self, pixels: torch.Tensor, slots: Sequence[Slot | None]) -> ForwardPass:
        """Start a forward pass.

        Args:
            pixels: [N, 3, H, W] float32, normalised.
            slots: the adapter of each row, None for the backbone alone.
        """

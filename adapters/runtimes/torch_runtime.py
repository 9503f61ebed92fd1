"""The torch runtime: a backbone whose linear modules apply the adapters of the batch by forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from adapters.backbone.families import Family, family_named
from adapters.backbone.features import pool
from adapters.bank.apply import BatchAdapters
from adapters.bank.slots import Bank, Slot
from adapters.runtimes.interface import REFERENCE, Runtime
from registry.versions.manifest import BackboneRef

_current: ContextVar[BatchAdapters | None] = ContextVar("current adapters", default=None)


class TorchRuntime:
    """A backbone that torch computes, in the dtype of its weights."""

    def __init__(self, name: str, ref: BackboneRef, model: nn.Module, device: str) -> None:
        self.name = name
        self.ref = ref
        self.device = device
        self.family: Family = family_named(ref.family)
        self.model = model
        self.blocks: Sequence[nn.Module] = model.get_submodule(self.family.blocks)  # type: ignore[assignment]
        self.norm = model.get_submodule(self.family.norm)
        self.bank = Bank(self.family.linears_of(model))
        for module_name, linear in self.bank.linears.items():
            linear.register_forward_hook(_adapter_hook(module_name))

    @torch.no_grad()
    def start(self, pixels: torch.Tensor, slots: Sequence[Slot | None]) -> TorchForwardPass:
        """Start a forward pass; see `Runtime.start`."""
        return TorchForwardPass(self, pixels.to(next(self.model.parameters()).dtype), slots)

    def embed(self, pixels: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        """The tokens [N, T, D] that enter the first block, and the keyword arguments of every block."""
        tokens = self.model.get_submodule("embeddings")(pixels)
        if self.family.rotary is None:
            return tokens, {}
        return tokens, {"position_embeddings": self.model.get_submodule(self.family.rotary)(pixels)}


class TorchForwardPass:
    """See `ForwardPass`."""

    def __init__(self, runtime: TorchRuntime, pixels: torch.Tensor, slots: Sequence[Slot | None]) -> None:
        self._runtime = runtime
        self._slots = list(slots)
        self._adapters = BatchAdapters(self._slots, runtime.device)
        self._tokens, self._beside = runtime.embed(pixels)
        self._prefix = runtime.family.prefix_tokens(runtime.ref.config)
        self._block = 0

    @property
    def block(self) -> int:
        """How many blocks the batch has passed."""
        return self._block

    @torch.no_grad()
    def advance(self, block: int) -> None:
        """Compute up to and including block number `block`."""
        with _apply_adapters(self._adapters):
            for layer in self._runtime.blocks[self._block : block]:
                self._tokens = layer(self._tokens, **self._beside)
        self._block = max(self._block, block)

    @torch.no_grad()
    def pooled(self, pooling: str, norm: bool) -> torch.Tensor:
        """Features of the remaining rows after the current block."""
        tokens = self._runtime.norm(self._tokens) if norm else self._tokens
        return pool(tokens.float(), pooling, self._prefix)

    @torch.no_grad()
    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these."""
        self._slots = [self._slots[row] for row in rows.tolist()]
        self._adapters = BatchAdapters(self._slots, self._runtime.device)
        self._tokens = self._tokens[rows]


@contextmanager
def _apply_adapters(adapters: BatchAdapters) -> Iterator[None]:
    """Within this context, linear modules in this thread apply these adapters."""
    token = _current.set(adapters)
    try:
        yield
    finally:
        _current.reset(token)


def _adapter_hook(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor | None]:
    """A forward hook that applies the adapters to one linear module."""

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
        adapters = _current.get()
        return None if adapters is None else adapters.change(name, module, inputs[0], output)  # type: ignore[arg-type]

    return hook


def torch_fp32(ref: BackboneRef, model: nn.Module, device: str) -> Runtime:
    """The reference: float32 throughout."""
    return TorchRuntime(REFERENCE, ref, model, device)

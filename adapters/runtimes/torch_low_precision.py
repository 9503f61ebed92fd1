"""Torch runtimes with lower precision: `torch-bf16` and `torch-int8`.

Only the blocks change. Tokens, the last layer norm and the pooling are computed in float32; adapters stay float32 in
the bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from adapters.backbone.families import family_named
from adapters.runtimes.torch_runtime import TorchRuntime
from registry.errors import BadInput
from registry.versions.manifest import BackboneRef

_LARGEST = 127
"""The largest int8 value."""


def torch_bf16(ref: BackboneRef, model: nn.Module, device: str) -> Bfloat16Runtime:
    """Blocks in bfloat16: fast where the processor or GPU supports it, slower than float32 elsewhere."""
    for block in _blocks(ref, model):
        for parameter in block.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)  # another tensor: the shared ones stay as they are
    _release_shared_tensors(model)
    return Bfloat16Runtime("torch-bf16", ref, model, device)


def torch_int8(ref: BackboneRef, model: nn.Module, device: str) -> TorchRuntime:
    """Linear modules multiply int8, see `Int8Linear`: fast on processors with AVX512-VNNI or AMX.

    Raises:
        BadInput: when `device` is not a processor.
    """
    if device != "cpu":
        raise BadInput(f"torch-int8 runs on processors, not on {device[:40]!r}", hint="use device cpu, or torch-bf16")
    for name, linear in family_named(ref.family).linears_of(model).items():
        model.set_submodule(name, Int8Linear(linear.weight.detach(), linear.bias))
    _release_shared_tensors(model)
    return TorchRuntime("torch-int8", ref, model, device)


class Bfloat16Runtime(TorchRuntime):
    """A backbone with blocks in bfloat16; tokens and the last layer norm are float32."""

    def __init__(self, name: str, ref: BackboneRef, model: nn.Module, device: str) -> None:
        super().__init__(name, ref, model, device)
        self.norm = _InFloat32(self.norm)

    def embed(self, pixels: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        """The tokens [N, T, D] that enter the first block, and the keyword arguments of every block, in bfloat16."""
        tokens, beside = super().embed(pixels)
        narrow = {name: tuple(table.to(torch.bfloat16) for table in tables) for name, tables in beside.items()}
        return tokens.to(torch.bfloat16), narrow


class Int8Linear(nn.Module):
    """A linear module that multiplies int8: y = (Q_x Q_w^T) s_x s_w + b.

    The weight has a scale per output, computed once. Activations get a scale per token. Torch's own dynamic
    quantisation has one scale per batch: rows would depend on other rows, and the error is three times as large.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """
        Args:
            weight: [out, in] float32.
            bias: [out], or None.
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        steps, scale = _quantised(weight)
        self.steps = nn.Buffer(steps)
        self.scale = nn.Buffer(scale[:, 0])
        self.bias = bias

    @property
    def weight(self) -> torch.Tensor:
        """[out, in] float32: the weight that it multiplies with."""
        return self.steps * self.scale[:, None]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., in] float32 -> [..., out] float32."""
        steps, scale = _quantised(inputs.reshape(-1, self.in_features))
        outputs = torch._int_mm(steps, self.steps.t()).float().mul_(scale).mul_(self.scale)
        if self.bias is not None:
            outputs.add_(self.bias)
        return outputs.reshape(*inputs.shape[:-1], self.out_features)


class _InFloat32(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.inner(tokens.float())
        return result


def _quantised(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, in] -> int8 values [N, in] and the step size of each row [N, 1]."""
    largest = rows.abs().amax(dim=1, keepdim=True)
    step = largest.clamp_min(torch.finfo(torch.float32).tiny * _LARGEST) / _LARGEST
    return (rows / step).round_().to(torch.int8), step


def _blocks(ref: BackboneRef, model: nn.Module) -> Sequence[nn.Module]:
    return list(model.get_submodule(family_named(ref.family).blocks).children())


def _release_shared_tensors(model: nn.Module) -> None:
    """Free the float32 weights, unless another runtime uses them."""
    vars(model).pop("shared_tensors", None)

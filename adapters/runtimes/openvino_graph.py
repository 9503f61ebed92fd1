"""Build OpenVINO graphs of a backbone's blocks, in which the adapter is an input.

A graph computes consecutive blocks for one image. Its weights are constants. Its inputs are the tokens and, for every
linear module that adapters may change, A, B and scale of a LoRA and a DoRA's gain (see `adapters.bank.slots`). For a
module that the current adapter does not change, B is zero and the gain is one, so that its outputs stay the same bit
for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from registry.errors import BadInput, MissingDependency, install_hint

if TYPE_CHECKING:
    from adapters.bank.slots import Slot

_ACTIVATIONS = {"GELUActivation": ("gelu", "erf"), "SiLUActivation": ("swish",)}
"""The class in transformers -> the operation in OpenVINO, and its arguments."""

_LARGEST = 127
"""The largest int8 value."""


def openvino_package() -> Any:
    """Import OpenVINO.

    Raises:
        MissingDependency: when it is not installed.
    """
    try:
        import openvino
        import openvino.opset13
    except ImportError as error:
        raise MissingDependency(
            "this runtime needs OpenVINO, which is not installed", hint=install_hint("openvino")
        ) from error
    return openvino


@dataclass(frozen=True)
class Precision:
    """How a graph computes.

    Attributes:
        hint: the floating point type, `f32` or `bf16`.
        group: 0 for float weights. Otherwise linear modules multiply int8: weights have a scale per output, activations
            a scale per token and group of this many values. An outlier then affects only its group, and a row's result
            does not depend on other rows.
    """

    hint: str
    group: int = 0


@dataclass(frozen=True)
class AdaptedModules:
    """The linear modules that adapters may change: `low_rank` all of them, `gain` those that a DoRA may change."""

    low_rank: frozenset[str] = frozenset()
    gain: frozenset[str] = frozenset()

    def __or__(self, other: AdaptedModules) -> AdaptedModules:
        return AdaptedModules(self.low_rank | other.low_rank, self.gain | other.gain)

    def within(self, names: Sequence[str]) -> AdaptedModules:
        """Only those among these modules."""
        return AdaptedModules(self.low_rank.intersection(names), self.gain.intersection(names))

    @classmethod
    def of(cls, slots: Sequence[Slot | None]) -> AdaptedModules:
        """The modules that these adapters change."""
        stacks = [item for page in {slot.page for slot in slots if slot} for item in page.stacks.items()]
        return cls(
            frozenset(name for name, _ in stacks), frozenset(name for name, stack in stacks if stack.dora is not None)
        )


def check_supported(layers: Sequence[nn.Module]) -> None:
    """Check that a graph can be built of these blocks.

    Raises:
        BadInput: when they have an activation that is not supported.
    """
    for layer in layers:
        name = type(_activation(layer.get_submodule("mlp"))).__name__
        if name not in _ACTIVATIONS:
            raise BadInput(f"OpenVINO runtimes do not support the activation {name}", hint="use a torch runtime")


def build_graph(
    layers: Sequence[nn.Module],
    names: Mapping[nn.Module, str],
    adapted: AdaptedModules,
    precision: Precision,
    *,
    rotary: str | None,
    tokens: int,
) -> Any:
    """Build an `openvino.Model` of blocks.

    Its inputs: tokens [1, T, D]; with rotary positions cosines and sines [T, head size]; for each adapted module,
    sorted by name, A [r, in], B [out, r], scale [1], and gain [out] if a DoRA may change it. Its output: tokens [1, T,
    D].

    Args:
        layers: consecutive blocks of a transformers model that `check_supported` accepted; weights are shared.
        names: of their linear modules.
        adapted: the modules that adapters may change.
        rotary: see `adapters.backbone.families.Family.rotary`.
        tokens: T.

    Raises:
        MissingDependency: when OpenVINO is not installed.
    """
    builder = _GraphBuilder(openvino_package().opset13, names, adapted, precision)
    return builder.model(layers, rotary, tokens)


class _GraphBuilder:
    """Builds one graph."""

    def __init__(self, ops: Any, names: Mapping[nn.Module, str], adapted: AdaptedModules, precision: Precision) -> None:
        self._ops = ops
        self._names = names
        self._adapted_modules = adapted
        self._precision = precision
        self._rotary: list[Any] = []
        self._adapters: dict[str, list[Any]] = {}

    def model(self, layers: Sequence[Any], rotary: str | None, tokens: int) -> Any:
        first = layers[0].attention
        entering = state = self._input("tokens", 1, tokens, first.q_proj.in_features)
        if rotary is not None:
            self._rotary = [self._input(name, tokens, first.head_dim) for name in ("cosines", "sines")]
        for layer in layers:
            state = self._block(layer, state)
        adapters = [node for name in sorted(self._adapters) for node in self._adapters[name]]
        return openvino_package().Model([state], [entering, *self._rotary, *adapters])

    def _block(self, layer: Any, tokens: Any) -> Any:
        attended = self._attention(layer, self._norm(layer.norm1, tokens))
        tokens = self._ops.add(tokens, attended)
        return self._ops.add(tokens, self._mlp(layer, self._norm(layer.norm2, tokens)))

    def _attention(self, layer: Any, tokens: Any) -> Any:
        ops, attention = self._ops, layer.attention
        size, width = attention.head_dim, attention.q_proj.out_features
        query, key, value = (
            self._swapped(ops.reshape(self._linear(module, tokens), self._numbers(0, 0, width // size, size), True))
            for module in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if self._rotary:
            query, key = self._rotated(query), self._rotated(key)
        mixed = self._swapped(ops.scaled_dot_product_attention(query, key, value))
        mixed = ops.reshape(mixed, self._numbers(0, 0, width), True)
        return self._linear(attention.o_proj, mixed, layer.layer_scale1.lambda1)

    def _rotated(self, states: Any) -> Any:
        ops, (cosines, sines) = self._ops, self._rotary
        left, right = ops.split(states, ops.constant(np.int64(3)), 2).outputs()
        turned = ops.concat([ops.negative(right), left], 3)
        return ops.add(ops.multiply(states, cosines), ops.multiply(turned, sines))

    def _mlp(self, layer: Any, tokens: Any) -> Any:
        mlp, size = layer.mlp, layer.layer_scale2.lambda1
        if hasattr(mlp, "gate_proj"):
            gate = self._activated(mlp, self._linear(mlp.gate_proj, tokens))
            return self._linear(mlp.down_proj, self._ops.multiply(gate, self._linear(mlp.up_proj, tokens)), size)
        up, down = (mlp.fc1, mlp.fc2) if hasattr(mlp, "fc1") else (mlp.up_proj, mlp.down_proj)
        return self._linear(down, self._activated(mlp, self._linear(up, tokens)), size)

    def _activated(self, mlp: nn.Module, states: Any) -> Any:
        operation, *arguments = _ACTIVATIONS[type(_activation(mlp)).__name__]
        return getattr(self._ops, operation)(states, *arguments)

    def _norm(self, norm: nn.LayerNorm, tokens: Any) -> Any:
        ops = self._ops
        centred = ops.mvn(tokens, self._numbers(-1), True, norm.eps, "inside_sqrt")
        return ops.add(ops.multiply(centred, self._constant(norm.weight)), self._constant(norm.bias))

    def _linear(self, module: nn.Linear, inputs: Any, size: torch.Tensor | None = None) -> Any:
        """size ⊙ (g ⊙ (W x + s·B A x) + b), with LoRA and gain only for adapted modules.

        The layer scale `size` is multiplied into W here, as OpenVINO does by itself where there is no LoRA: so the same
        numbers are computed with and without a LoRA.
        """
        ops, name = self._ops, self._names[module]
        outputs = ops.matmul(inputs, self._weight(_sized(module.weight, size)), False, True)
        if name in self._adapted_modules.low_rank:
            a = self._input(f"{name}.a", -1, module.in_features)
            b = self._input(f"{name}.b", module.out_features, -1)
            scale = self._input(f"{name}.scale", 1)
            self._adapters[name] = [a, b, scale]
            low = ops.multiply(ops.matmul(inputs, a, False, True), scale)
            change = ops.matmul(low, b, False, True)
            outputs = ops.add(outputs, change if size is None else ops.multiply(change, self._constant(size)))
        if name in self._adapted_modules.gain:
            gain = self._input(f"{name}.gain", module.out_features)
            self._adapters[name].append(gain)
            outputs = ops.multiply(outputs, gain)
        return outputs if module.bias is None else ops.add(outputs, self._constant(_sized(module.bias, size)))

    def _weight(self, weight: torch.Tensor) -> Any:
        if not self._precision.group:
            return self._constant(weight)
        largest = weight.abs().amax(dim=1, keepdim=True)
        step = largest.clamp_min(torch.finfo(torch.float32).tiny * _LARGEST) / _LARGEST
        whole = self._ops.convert(self._ops.constant((weight / step).round().to(torch.int8).numpy()), "f32")
        return self._ops.multiply(whole, self._ops.constant(step.numpy()))

    def _constant(self, tensor: torch.Tensor) -> Any:
        return self._ops.constant(tensor.detach().numpy(), shared_memory=True)

    def _swapped(self, states: Any) -> Any:
        """[1, T, heads, size] <-> [1, heads, T, size]."""
        return self._ops.transpose(states, self._numbers(0, 2, 1, 3))

    def _numbers(self, *numbers: int) -> Any:
        return self._ops.constant(np.array(numbers, np.int64))

    def _input(self, name: str, *shape: int) -> Any:
        return self._ops.parameter(list(shape), np.float32, name=name)


def _activation(mlp: Any) -> nn.Module:
    found: nn.Module = mlp.activation_fn if hasattr(mlp, "activation_fn") else mlp.act_fn
    return found


def _sized(tensor: torch.Tensor, size: torch.Tensor | None) -> torch.Tensor:
    """A weight [out, in] or bias [out] whose outputs are multiplied by `size` [out]."""
    if size is None:
        return tensor.detach()
    return tensor.detach() * size.detach().reshape(-1, *[1] * (tensor.dim() - 1))

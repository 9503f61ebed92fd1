"""The weights of one adapter in memory: a flat vector of numbers, and the layout of its tensors in that vector."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TypeAlias

import torch

TensorKey: TypeAlias = tuple[str, str]
"""A module's name and the kind of tensor: `a` [r, in], `b` [out, r], a DoRA's `magnitude` [out] and `gain` [out]."""


@dataclass(frozen=True)
class TensorLayout:
    """The tensors of an adapter with their shapes, in the order in which their numbers are stored one after another."""

    entries: tuple[tuple[TensorKey, tuple[int, ...]], ...]

    @cached_property
    def shapes(self) -> dict[TensorKey, tuple[int, ...]]:
        """The shape of each tensor."""
        return dict(self.entries)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The number of elements of each tensor."""
        return tuple(math.prod(shape) for _, shape in self.entries)

    @cached_property
    def size(self) -> int:
        """The number of elements of all tensors together."""
        return sum(self.sizes)

    @cached_property
    def has_magnitudes(self) -> bool:
        """Whether it is the layout of a DoRA."""
        return any(kind == "magnitude" for _, kind in self.shapes)

    @cached_property
    def slices(self) -> dict[TensorKey, slice]:
        """The position of each tensor's numbers in the vector."""
        ends = accumulate(self.sizes)
        return {key: slice(end - size, end) for (key, _), size, end in zip(self.entries, self.sizes, ends, strict=True)}

    def split(self, numbers: torch.Tensor) -> dict[TensorKey, torch.Tensor]:
        """Split vectors [..., n] into the tensors of the layout; the results are views."""
        before = numbers.shape[:-1]
        pieces = zip(self.entries, numbers.split(self.sizes, dim=-1), strict=True)
        return {key: piece.view(*before, *shape) for (key, shape), piece in pieces}

    def can_hold(self, other: TensorLayout) -> bool:
        """Whether it has the same tensors, in any order, each at least as large in every dimension."""
        return self.shapes.keys() == other.shapes.keys() and all(
            mine >= its for key, shape in other.entries for mine, its in zip(self.shapes[key], shape, strict=True)
        )


@dataclass(frozen=True)
class LoraModule:
    """A LoRA on one linear module: it adds scale · B A x. `a` [r, in], `b` [out, r], a DoRA's `magnitude` [out]."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    magnitude: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """The rank r."""
        return len(self.a)


@dataclass(frozen=True)
class FileTensor:
    """A tensor of the adapter's file: the `kind` (`a`, `b`, `magnitude`) of these modules, joined along dimension 0."""

    modules: tuple[str, ...]
    kind: str
    dtype: torch.dtype


@dataclass(frozen=True)
class LoraStructure:
    """Everything about an adapter but its numbers.

    Attributes:
        layout: the tensors and their order.
        scales: module -> scale s, in the order of the layout.
        file_tensors: name in the adapter's file -> where that tensor went, in the order of the file.
    """

    layout: TensorLayout
    scales: Mapping[str, float]
    file_tensors: Mapping[str, FileTensor]

    @cached_property
    def is_as_stored(self) -> bool:
        """Whether the file has the same numbers in the same order and type as the layout."""
        stored = [(tensor.modules, tensor.kind, tensor.dtype) for tensor in self.file_tensors.values()]
        return stored == [((module,), kind, torch.float32) for module, kind in self.layout.shapes]


@dataclass(frozen=True)
class LoraWeights:
    """An adapter: its structure, and its numbers [n] in float32 in the order of the layout."""

    structure: LoraStructure
    numbers: torch.Tensor

    @staticmethod
    def of(modules: Mapping[str, LoraModule], file_tensors: Mapping[str, FileTensor] | None = None) -> LoraWeights:
        """The adapter that consists of these LoRAs; the numbers are copied. Without `file_tensors` it has no file."""
        structure = structure_of(modules, file_tensors or {})
        tensors = [getattr(modules[name], kind) for name, kind in structure.layout.shapes]
        return LoraWeights(structure, join_tensors(tensors))

    @property
    def modules(self) -> dict[str, LoraModule]:
        """The LoRA of each module; its tensors are views of the numbers."""
        tensors = self.structure.layout.split(self.numbers)
        return {
            name: LoraModule(tensors[name, "a"], tensors[name, "b"], scale, tensors.get((name, "magnitude")))
            for name, scale in self.structure.scales.items()
        }

    @property
    def nbytes(self) -> int:
        """The size of its numbers in bytes."""
        return 4 * self.structure.layout.size


def structure_of(modules: Mapping[str, LoraModule], file_tensors: Mapping[str, FileTensor]) -> LoraStructure:
    """The structure of an adapter that consists of these LoRAs."""
    entries = (
        ((name, kind), tuple(tensor.shape))
        for name, module in modules.items()
        for kind, tensor in (("a", module.a), ("b", module.b), ("magnitude", module.magnitude))
        if tensor is not None
    )
    scales = {name: module.scale for name, module in modules.items()}
    return LoraStructure(TensorLayout(tuple(entries)), scales, file_tensors)


def join_tensors(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The numbers of all tensors one after another, in float32."""
    return torch.cat([tensor.reshape(-1).float() for tensor in tensors])

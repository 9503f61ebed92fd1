"""Apply to each row of a batch the adapter of that row, at one linear module at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from adapters.bank.slots import ModuleSlots, Page, Slot


class BatchAdapters:
    """The slot of each row of a batch. While this object exists, none of these slots is reused."""

    def __init__(self, slots: Sequence[Slot | None], device: str) -> None:
        self._groups: list[_PageRows] = []
        pages: dict[int, list[tuple[int, Slot]]] = {}
        for row, slot in enumerate(slots):
            if slot is not None:
                pages.setdefault(id(slot.page), []).append((row, slot))
        for members in pages.values():
            rows = _as_slice([row for row, _ in members], device)
            index = torch.tensor([slot.index for _, slot in members], device=device)
            self._groups.append(_PageRows(members[0][1].page, rows, index, [slot for _, slot in members]))

    def change(self, name: str, linear: nn.Linear, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Add each row's adapter to the outputs of a linear module.

        Args:
            inputs, outputs: [N, T, in] and [N, T, out], of the module without adapters; `outputs` is changed in place.
        """
        for group in self._groups:
            stack = group.page.stacks.get(name)
            if stack is not None:
                group.change(stack, linear, inputs, outputs)
        return outputs


@dataclass(frozen=True)
class _PageRows:
    """The rows of a batch whose slots are in one page; adjacent rows are a slice, so that indexing copies nothing."""

    page: Page
    rows: torch.Tensor | slice
    index: torch.Tensor
    slots: list[Slot]

    def change(self, stack: ModuleSlots, linear: nn.Linear, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        before = outputs[self.rows]
        a, b = (stacked[self.index].to(inputs.dtype) for stacked in (stack.a, stack.b))
        low = torch.bmm(inputs[self.rows], a.transpose(1, 2)) * stack.scale[self.index, None, None].to(inputs.dtype)
        if stack.dora is not None:
            gain = stack.dora.gain[self.index][:, None].to(inputs.dtype)
            linear_part = before if linear.bias is None else before - linear.bias
            outputs[self.rows] = before + (gain - 1) * linear_part + gain * torch.bmm(low, b.transpose(1, 2))
        elif isinstance(self.rows, slice):
            before.baddbmm_(low, b.transpose(1, 2))
        else:
            outputs[self.rows] = torch.baddbmm(before, low, b.transpose(1, 2))


def _as_slice(rows: list[int], device: str) -> torch.Tensor | slice:
    if rows[-1] - rows[0] + 1 == len(rows):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device)

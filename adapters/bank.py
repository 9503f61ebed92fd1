"""The bank: the adapters of all resident versions and targets, stacked, so that one pass serves rows of any of them.

For each linear module that adapters change, a page holds stacks A [slots, r, in] and B [slots, out, r]; a row of a
batch chooses its slot by index. A LoRA adds s·B(Ax) to Wx + b. A DoRA scales the outputs as well: with W frozen,

    y = g ⊙ (Wx + s·BAx) + b,   g = m / ‖W + s·BA‖ (per output)

is DoRA itself (Liu et al. 2024, eq. 5; m is the learnt magnitude), and g depends on weights only: it is computed once,
when the adapter is loaded.

Who reads and who writes:

* a slot is written before it is given out and never afterwards: not while anything refers to it;
* a slot that nothing refers to is free, and the next adapter that fits may fill it;
* the bank grows by pages; pages that are there are not moved, so readers notice nothing.

On a GPU, loading and answering use the device's one default stream: a slot is refilled after the passes that read it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from registry.errors import BadWeights

if TYPE_CHECKING:
    from adapters.lora import LoraModule, LoraWeights

MAX_PADDING = 1.2
"""An adapter takes a slot of a page with higher ranks if that costs at most this many times its own bytes."""


@dataclass(frozen=True)
class DoraStack:
    """What DoRAs have beside A and B at one linear module: `gain` g and `magnitude` m, [slots, out] each."""

    gain: torch.Tensor
    magnitude: torch.Tensor


@dataclass(frozen=True)
class Stack:
    """All slots of a page at one linear module. float32.

    Attributes:
        a, b: [slots, r, in] and [slots, out, r]; ranks below r are padded with zeros.
        scale: [slots], s.
        dora: None in pages of plain LoRAs.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: torch.Tensor
    dora: DoraStack | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the tensors."""
        own = self.a.nbytes + self.b.nbytes + self.scale.nbytes
        return own if self.dora is None else own + self.dora.gain.nbytes + self.dora.magnitude.nbytes


class Page:
    """Slots of one form: the same modules, and ranks up to the page's."""

    def __init__(self, stacks: Mapping[str, Stack], capacity: int) -> None:
        self.stacks = stacks
        self.capacity = capacity
        self.free = deque(range(capacity))  # append and popleft are atomic: slots come back without a lock

    def fits(self, adapter: LoraWeights) -> bool:
        """Whether a slot can hold an adapter without wasting much memory."""
        if self.stacks.keys() != adapter.modules.keys():
            return False
        pairs = [(self.stacks[name], module) for name, module in adapter.modules.items()]
        holds = all(
            stack.a.shape[1] >= module.rank and (stack.dora is None) == (module.magnitude is None)
            for stack, module in pairs
        )
        return holds and self.slot_bytes <= MAX_PADDING * adapter.nbytes

    @property
    def slot_bytes(self) -> int:
        """Memory of one slot."""
        return sum(stack.nbytes for stack in self.stacks.values()) // self.capacity


class Slot:
    """One adapter in the bank, for as long as anything refers to this object."""

    def __init__(self, page: Page, index: int, adapter: LoraWeights) -> None:
        """Use `Bank.add`."""
        self.page = page
        self.index = index
        self._ranks = {name: module.rank for name, module in adapter.modules.items()}
        self._sources = adapter.sources

    def __del__(self) -> None:
        self.page.free.append(self.index)

    @property
    def nbytes(self) -> int:
        """Memory that it takes, padding included."""
        return self.page.slot_bytes

    def tensors(self) -> dict[str, torch.Tensor]:
        """What its file holds, cut out of the stacks: unpadded, unscaled, under the names and types of the file."""
        return {
            name: torch.cat([self._part(module, source.part) for module in source.modules]).to(source.dtype)
            for name, source in self._sources.items()
        }

    def _part(self, module: str, part: str) -> torch.Tensor:
        stack, rank = self.page.stacks[module], self._ranks[module]
        whole = {"a": stack.a[self.index, :rank], "b": stack.b[self.index, :, :rank]}
        if stack.dora is not None:
            whole["magnitude"] = stack.dora.magnitude[self.index]
        return whole[part]


class Bank:
    """The adapters on one backbone. Threads may add while others read."""

    def __init__(self, linears: Mapping[str, nn.Linear]) -> None:
        """Args:
        linears: the modules that adapters may change, by name.
        """
        self.linears = dict(linears)
        self._pages: tuple[Page, ...] = ()
        self._adding = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Memory of all pages, their free slots included."""
        return sum(page.slot_bytes * page.capacity for page in self._pages)

    @torch.no_grad()
    def add(self, adapters: Sequence[LoraWeights]) -> list[Slot]:
        """Put adapters into free slots, and into new pages when these do not suffice; a slot each, in order.

        Raises:
            BadWeights: a number in them is not finite.
        """
        with self._adding:
            slots: dict[int, Slot] = {}
            left = []
            for number, adapter in enumerate(adapters):
                if page := next((page for page in self._pages if page.free and page.fits(adapter)), None):
                    slots[number] = self._fill(page, adapter)
                else:
                    left.append(number)
            if left:
                self._pages = tuple(page for page in self._pages if len(page.free) < page.capacity)
            for group in _alike({number: adapters[number] for number in left}):
                page = self._new_page([adapters[number] for number in group])
                slots |= {number: self._fill(page, adapters[number]) for number in group}
                self._pages += (page,)
            return [slots[number] for number in range(len(adapters))]

    def _new_page(self, adapters: Sequence[LoraWeights]) -> Page:
        first = adapters[0]
        stacks = {}
        for name, module in first.modules.items():
            rank = max(adapter.modules[name].rank for adapter in adapters)
            stacks[name] = self._new_stack(name, len(adapters), rank, module.magnitude is not None)
        return Page(stacks, len(adapters))

    def _new_stack(self, name: str, slots: int, rank: int, is_dora: bool) -> Stack:
        linear = self.linears[name]
        wide, device = linear.out_features, linear.weight.device
        return Stack(
            a=torch.empty(slots, rank, linear.in_features, device=device),
            b=torch.empty(slots, wide, rank, device=device),
            scale=torch.empty(slots, device=device),
            dora=DoraStack(*torch.empty(2, slots, wide, device=device)) if is_dora else None,
        )

    def _fill(self, page: Page, adapter: LoraWeights) -> Slot:
        slot = Slot(page, page.free.popleft(), adapter)
        for name, module in adapter.modules.items():
            self._write(name, page.stacks[name], slot.index, module)
        return slot

    def _write(self, name: str, stack: Stack, index: int, module: LoraModule) -> None:
        a, b = stack.a[index], stack.b[index]
        a[: module.rank].copy_(module.a)
        b[:, : module.rank].copy_(module.b)
        a[module.rank :].zero_()
        b[:, module.rank :].zero_()
        stack.scale[index].fill_(module.scale)
        _check_finite(name, a, b)
        if stack.dora is not None and module.magnitude is not None:
            weight = self.linears[name].weight.float()
            stack.dora.magnitude[index].copy_(module.magnitude)
            norm = torch.linalg.norm(weight + module.scale * (b @ a), dim=1)
            stack.dora.gain[index].copy_(stack.dora.magnitude[index] / norm)
            _check_finite(name, stack.dora.gain[index])


def _alike(adapters: Mapping[int, LoraWeights]) -> list[list[int]]:
    """Groups that may share a page: the same form, no member padded to much more than its size; largest first."""
    groups: list[list[int]] = []
    for number in sorted(adapters, key=lambda number: -adapters[number].nbytes):
        for group in groups:
            largest = adapters[group[0]]
            if largest.form == adapters[number].form and largest.nbytes <= MAX_PADDING * adapters[number].nbytes:
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


def _check_finite(name: str, *tensors: torch.Tensor) -> None:
    # A sum is finite if all numbers are; the reverse fails only for sums beyond 3e38, which the second look settles.
    for tensor in tensors:
        if not bool(tensor.sum().isfinite()) and not bool(tensor.isfinite().all()):
            raise BadWeights(f"the adapter has numbers that are not finite at {name}")


class Selection:
    """Which slot each row of a batch goes through; it keeps the slots."""

    def __init__(self, slots: Sequence[Slot | None], device: str) -> None:
        self._parts: list[_Part] = []
        pages: dict[int, list[tuple[int, Slot]]] = {}
        for row, slot in enumerate(slots):
            if slot is not None:
                pages.setdefault(id(slot.page), []).append((row, slot))
        for members in pages.values():
            rows = None if len(members) == len(slots) else torch.tensor([row for row, _ in members], device=device)
            index = torch.tensor([slot.index for _, slot in members], device=device)
            self._parts.append(_Part(members[0][1].page, rows, index, [slot for _, slot in members]))

    def change(self, name: str, linear: nn.Linear, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """What a linear module gives with each row's adapter on it.

        Args:
            inputs, outputs: [N, T, in] and [N, T, out], of the module without adapters; neither is written.
        """
        for part in self._parts:
            stack = part.page.stacks.get(name)
            if stack is not None:
                outputs = part.change(stack, linear, inputs, outputs)
        return outputs


@dataclass(frozen=True)
class _Part:
    """The rows of a batch whose slots are in one page; `rows` is None when these are all."""

    page: Page
    rows: torch.Tensor | None
    index: torch.Tensor
    slots: list[Slot]

    def change(self, stack: Stack, linear: nn.Linear, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        mine = inputs if self.rows is None else inputs[self.rows]
        before = outputs if self.rows is None else outputs[self.rows]
        a, b = (stacked[self.index].to(inputs.dtype) for stacked in (stack.a, stack.b))
        low = torch.bmm(mine, a.transpose(1, 2)) * stack.scale[self.index, None, None].to(inputs.dtype)
        if stack.dora is None:
            after = torch.baddbmm(before, low, b.transpose(1, 2))
        else:
            gain = stack.dora.gain[self.index][:, None].to(inputs.dtype)
            linear_part = before if linear.bias is None else before - linear.bias
            after = before + (gain - 1) * linear_part + gain * torch.bmm(low, b.transpose(1, 2))
        return after if self.rows is None else outputs.index_copy(0, self.rows, after)

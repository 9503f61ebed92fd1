"""The bank: the adapters of all resident versions and targets, stacked, so that one pass serves rows of any of them.

A slot is one row of a page's memory, in which an adapter's numbers lie as they do in its file, so that loading one is
one copy. Seen by linear module, a page is stacks A [slots, r, in] and B [slots, out, r]; a row of a batch chooses its
slot by index. A LoRA adds s·B(Ax) to Wx + b. A DoRA scales the outputs as well: with W frozen,

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

import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn

from registry.errors import BadWeights

if TYPE_CHECKING:
    from adapters.bank.lora import Form, LoraWeights

MAX_PADDING = 1.2
"""An adapter takes a slot of a page with higher ranks if that costs at most this many times its own bytes."""

Part: TypeAlias = tuple[str, str]
"""A module's name, and what of it: `a` [r, in], `b` [out, r], a DoRA's `magnitude` [out] and `gain` [out]."""


@dataclass(frozen=True)
class Layout:
    """Parts of an adapter with their shapes, in the order in which their numbers lie one after another."""

    parts: tuple[tuple[Part, tuple[int, ...]], ...]

    @cached_property
    def shapes(self) -> dict[Part, tuple[int, ...]]:
        """Part -> its shape."""
        return dict(self.parts)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many numbers each part has."""
        return tuple(math.prod(shape) for _, shape in self.parts)

    @cached_property
    def size(self) -> int:
        """How many numbers there are in all."""
        return sum(self.sizes)

    @cached_property
    def has_magnitudes(self) -> bool:
        """Whether it is a DoRA's."""
        return any(part == "magnitude" for _, part in self.shapes)

    @cached_property
    def places(self) -> dict[Part, slice]:
        """Part -> where its numbers lie."""
        ends = accumulate(self.sizes)
        return {part: slice(end - size, end) for (part, _), size, end in zip(self.parts, self.sizes, ends, strict=True)}

    def cut(self, numbers: torch.Tensor) -> dict[Part, torch.Tensor]:
        """The numbers [..., n] of each part in its shape; views."""
        before = numbers.shape[:-1]
        pieces = zip(self.parts, numbers.split(self.sizes, dim=-1), strict=True)
        return {part: piece.view(*before, *shape) for (part, shape), piece in pieces}

    def holds(self, other: Layout) -> bool:
        """Whether it has the same parts, in any order, none of them smaller along any dimension."""
        return self.shapes.keys() == other.shapes.keys() and all(
            mine >= its for part, shape in other.parts for mine, its in zip(self.shapes[part], shape, strict=True)
        )


@dataclass(frozen=True)
class DoraStack:
    """What DoRAs have beside A and B at one linear module: `gain` g and `magnitude` m, [slots, out] each."""

    gain: torch.Tensor
    magnitude: torch.Tensor


@dataclass(frozen=True)
class Stack:
    """All slots of a page at one linear module: views of the page's memory. float32.

    Attributes:
        a, b: [slots, r, in] and [slots, out, r]; ranks below r are padded with zeros.
        scale: [slots], s.
        dora: None in pages of plain LoRAs.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: torch.Tensor
    dora: DoraStack | None = None


class Page:
    """Slots of one form: the same modules, and ranks up to the page's.

    Attributes:
        layout: of the numbers of an adapter with the page's ranks; a DoRA's gains lie behind them.
        rows: [slots, n]; a row is a slot.
        scales: [slots, modules].
        stacks: `rows` and `scales` by module.
    """

    def __init__(self, layout: Layout, capacity: int, device: torch.device) -> None:
        self.layout = layout
        self.capacity = capacity
        gains = (((name, "gain"), shape) for (name, part), shape in layout.parts if part == "magnitude")
        whole = Layout((*layout.parts, *gains))
        names = list(dict.fromkeys(name for name, _ in layout.shapes))
        self.rows = torch.empty(capacity, whole.size, device=device)
        self.scales = torch.empty(capacity, len(names), device=device)
        self.stacks = _stacks(names, whole.cut(self.rows), self.scales)
        self.slot_bytes = 4 * (whole.size + len(names))
        self.free = deque(range(capacity))  # append and popleft are atomic: slots come back without a lock

    def fits(self, adapter: LoraWeights) -> bool:
        """Whether a slot can hold an adapter without wasting much memory."""
        layout = adapter.form.layout
        return self.layout == layout or (self.slot_bytes <= MAX_PADDING * adapter.nbytes and self.layout.holds(layout))

    def write(self, index: int, adapter: LoraWeights) -> None:
        """Put an adapter's numbers into a slot; a DoRA's gains are not among them."""
        layout, row = adapter.form.layout, self.rows[index, : self.layout.size]
        if self.layout == layout:
            row.copy_(adapter.numbers)
        else:
            row.zero_()
            own = self.layout.cut(row)
            for part, numbers in layout.cut(adapter.numbers).items():
                own[part][tuple(map(slice, numbers.shape))].copy_(numbers)
        scales = adapter.form.scales
        self.scales[index].copy_(torch.tensor([scales[name] for name in self.stacks]))


def _stacks(names: Sequence[str], parts: Mapping[Part, torch.Tensor], scales: torch.Tensor) -> dict[str, Stack]:
    def dora(name: str) -> DoraStack | None:
        return DoraStack(parts[name, "gain"], parts[name, "magnitude"]) if (name, "gain") in parts else None

    return {
        name: Stack(parts[name, "a"], parts[name, "b"], scale, dora(name))
        for name, scale in zip(names, scales.unbind(dim=1), strict=True)
    }


class Slot:
    """One adapter in the bank, for as long as anything refers to this object."""

    def __init__(self, page: Page, index: int, form: Form) -> None:
        """Use `Bank.add`."""
        self.page = page
        self.index = index
        self._form = form

    def __del__(self) -> None:
        self.page.free.append(self.index)

    @property
    def nbytes(self) -> int:
        """Memory that it takes, padding included."""
        return self.page.slot_bytes

    def tensors(self) -> dict[str, torch.Tensor]:
        """What its file holds, cut out of the stacks: unpadded, unscaled, under the names and types of the file."""
        whole = self.page.layout.cut(self.page.rows[self.index, : self.page.layout.size])
        parts = {
            part: whole[part][tuple(map(slice, shape))]  # without what pads it
            for part, shape in self._form.layout.parts
        }
        return {
            name: torch.cat([parts[module, source.part] for module in source.modules]).to(source.dtype)
            for name, source in self._form.sources.items()
        }


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

    def add(self, adapters: Sequence[LoraWeights]) -> list[Slot]:
        """Put adapters into free slots, and into new pages when these do not suffice; a slot each, in order.

        Raises:
            BadWeights: a number in them is not finite.
        """
        with self._adding, torch.inference_mode(False), torch.no_grad():  # pages made in it can't be filled outside
            self._pages = tuple(page for page in self._pages if _is_worth_keeping(page, adapters))
            slots: dict[int, Slot] = {}
            left = []
            for number, adapter in enumerate(adapters):
                if page := next((page for page in self._pages if page.free and page.fits(adapter)), None):
                    slots[number] = self._fill(page, adapter)
                else:
                    left.append(number)
            for group in _alike({number: adapters[number] for number in left}):
                page = self._new_page([adapters[number] for number in group])
                slots |= {number: self._fill(page, adapters[number]) for number in group}
                self._pages += (page,)
            return [slots[number] for number in range(len(adapters))]

    def _new_page(self, adapters: Sequence[LoraWeights]) -> Page:
        layouts = [adapter.form.layout for adapter in adapters]
        device = next(iter(self.linears.values())).weight.device
        return Page(_widest(layouts), len(adapters), device)

    def _fill(self, page: Page, adapter: LoraWeights) -> Slot:
        _check_finite(adapter)
        slot = Slot(page, page.free.popleft(), adapter.form)
        page.write(slot.index, adapter)
        if page.layout.has_magnitudes:
            self._write_gains(page, slot.index)
        return slot

    def _write_gains(self, page: Page, index: int) -> None:
        for name, stack in page.stacks.items():
            if stack.dora is not None:
                weight = self.linears[name].weight.float()
                change = stack.scale[index] * (stack.b[index] @ stack.a[index])
                gain = stack.dora.magnitude[index] / torch.linalg.norm(weight + change, dim=1)
                if not bool(gain.isfinite().all()):
                    raise BadWeights(f"the adapter has numbers that are not finite at {name}")
                stack.dora.gain[index].copy_(gain)


def _is_worth_keeping(page: Page, adapters: Sequence[LoraWeights]) -> bool:
    """Whether somebody uses a page, or these adapters would fill it; a few of them would keep all of its memory."""
    fitting = sum(page.fits(adapter) for adapter in adapters)
    return len(page.free) < page.capacity or page.capacity <= MAX_PADDING * fitting


def _widest(layouts: Sequence[Layout]) -> Layout:
    """The smallest layout that holds these, in the order of the first."""
    if all(layout == layouts[0] for layout in layouts):
        return layouts[0]
    shapes = ((part, [layout.shapes[part] for layout in layouts]) for part in layouts[0].shapes)
    return Layout(tuple((part, tuple(map(max, zip(*each, strict=True)))) for part, each in shapes))


def _alike(adapters: Mapping[int, LoraWeights]) -> list[list[int]]:
    """Groups that may share a page: the same parts, no member padded to much more than its size; largest first."""
    groups: list[list[int]] = []
    for number in sorted(adapters, key=lambda number: -adapters[number].nbytes):
        for group in groups:
            if _are_alike(adapters[group[0]], adapters[number]):
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


def _are_alike(larger: LoraWeights, smaller: LoraWeights) -> bool:
    parts = [adapter.form.layout.shapes.keys() for adapter in (larger, smaller)]
    return parts[0] == parts[1] and larger.nbytes <= MAX_PADDING * smaller.nbytes


def _check_finite(adapter: LoraWeights) -> None:
    # A sum is finite if all numbers are; the reverse fails only for sums beyond 3e38, which the second look settles.
    if not bool(adapter.numbers.sum().isfinite()) and not bool(adapter.numbers.isfinite().all()):
        parts = adapter.form.layout.cut(adapter.numbers)
        bad = next(name for (name, _), numbers in parts.items() if not bool(numbers.isfinite().all()))
        raise BadWeights(f"the adapter has numbers that are not finite at {bad}")


class Selection:
    """Which slot each row of a batch goes through; it keeps the slots."""

    def __init__(self, slots: Sequence[Slot | None], device: str) -> None:
        self._parts: list[_Part] = []
        pages: dict[int, list[tuple[int, Slot]]] = {}
        for row, slot in enumerate(slots):
            if slot is not None:
                pages.setdefault(id(slot.page), []).append((row, slot))
        for members in pages.values():
            rows = _as_slice([row for row, _ in members], device)
            index = torch.tensor([slot.index for _, slot in members], device=device)
            self._parts.append(_Part(members[0][1].page, rows, index, [slot for _, slot in members]))

    def change(self, name: str, linear: nn.Linear, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """What a linear module gives with each row's adapter on it.

        Args:
            inputs, outputs: [N, T, in] and [N, T, out], of the module without adapters; the outputs, which nobody else
                has seen, are changed in place.
        """
        for part in self._parts:
            stack = part.page.stacks.get(name)
            if stack is not None:
                part.change(stack, linear, inputs, outputs)
        return outputs


@dataclass(frozen=True)
class _Part:
    """The rows of a batch whose slots are in one page; rows beside each other are a slice, which copies nothing."""

    page: Page
    rows: torch.Tensor | slice
    index: torch.Tensor
    slots: list[Slot]

    def change(self, stack: Stack, linear: nn.Linear, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
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

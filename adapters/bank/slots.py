"""The bank: the adapters of all loaded versions and targets, stacked, so that one forward pass serves rows of all.

A slot is one row of a page's memory. An adapter's numbers have the same order in its slot as in its file, so that
loading is one copy. For each linear module a page has stacks A [slots, r, in] and B [slots, out, r]; a row of a batch
selects its slot by index. A LoRA adds s·B(Ax) to Wx + b. A DoRA also scales the outputs: with W frozen,

    y = g ⊙ (Wx + s·BAx) + b,   g = m / ‖W + s·BA‖ (per output)

is DoRA (Liu et al. 2024, eq. 5; m is the learnt magnitude). g depends on weights only and is computed once, when the
adapter is loaded.

Reading and writing:

* a slot is written before a reference to it is given out, and not again while a reference exists;
* a slot without references is free, and the next adapter that fits may use it;
* the bank grows by pages; existing pages are never moved, so readers need no lock.

On a GPU, loading and forward passes use the device's default stream: a slot is rewritten after the passes that read it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from adapters.bank.lora_weights import LoraStructure, LoraWeights, TensorKey, TensorLayout
from registry.errors import BadWeights

MAX_PADDING = 1.2
"""An adapter may use a slot of a page with higher ranks if that takes at most this many times its own bytes."""


@dataclass(frozen=True)
class DoraStack:
    """The tensors of DoRAs in addition to A and B at one linear module: `gain` g and `magnitude` m, [slots, out]."""

    gain: torch.Tensor
    magnitude: torch.Tensor


@dataclass(frozen=True)
class ModuleSlots:
    """All slots of a page at one linear module: float32 views of the page's memory.

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
    """Slots for adapters of the same modules, with ranks up to the page's.

    Attributes:
        layout: of an adapter with the page's ranks; in a row a DoRA's gains come after it.
        rows: [slots, n], one row per slot.
        scales: [slots, modules].
        stacks: `rows` and `scales` by module.
    """

    def __init__(self, layout: TensorLayout, capacity: int, device: torch.device) -> None:
        self.layout = layout
        self.capacity = capacity
        gains = (((name, "gain"), shape) for (name, kind), shape in layout.entries if kind == "magnitude")
        whole = TensorLayout((*layout.entries, *gains))
        names = list(dict.fromkeys(name for name, _ in layout.shapes))
        self.rows = torch.empty(capacity, whole.size, device=device)
        self.scales = torch.empty(capacity, len(names), device=device)
        self.stacks = _module_slots(names, whole.split(self.rows), self.scales)
        self.slot_bytes = 4 * (whole.size + len(names))
        self.free = deque(range(capacity))  # append and popleft are atomic: no lock is needed

    def fits(self, adapter: LoraWeights) -> bool:
        """Whether a slot can hold an adapter without wasting much memory."""
        layout = adapter.structure.layout
        return self.layout == layout or (
            self.slot_bytes <= MAX_PADDING * adapter.nbytes and self.layout.can_hold(layout)
        )

    def write(self, index: int, adapter: LoraWeights) -> None:
        """Copy an adapter's numbers into a slot, without a DoRA's gains."""
        layout, row = adapter.structure.layout, self.rows[index, : self.layout.size]
        if self.layout == layout:
            row.copy_(adapter.numbers)
        else:
            row.zero_()
            own = self.layout.split(row)
            for key, numbers in layout.split(adapter.numbers).items():
                own[key][tuple(map(slice, numbers.shape))].copy_(numbers)
        scales = adapter.structure.scales
        self.scales[index].copy_(torch.tensor([scales[name] for name in self.stacks]))


def _module_slots(
    names: Sequence[str], tensors: Mapping[TensorKey, torch.Tensor], scales: torch.Tensor
) -> dict[str, ModuleSlots]:
    def dora(name: str) -> DoraStack | None:
        return DoraStack(tensors[name, "gain"], tensors[name, "magnitude"]) if (name, "gain") in tensors else None

    return {
        name: ModuleSlots(tensors[name, "a"], tensors[name, "b"], scale, dora(name))
        for name, scale in zip(names, scales.unbind(dim=1), strict=True)
    }


class Slot:
    """One adapter in the bank, for as long as anything refers to this object."""

    def __init__(self, page: Page, index: int, structure: LoraStructure) -> None:
        """Use `Bank.add`."""
        self.page = page
        self.index = index
        self._structure = structure

    def __del__(self) -> None:
        self.page.free.append(self.index)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes, with padding."""
        return self.page.slot_bytes

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors of its file: without padding and scale, with the names and types that they have in the file."""
        padded = self.page.layout.split(self.page.rows[self.index, : self.page.layout.size])
        own = {key: padded[key][tuple(map(slice, shape))] for key, shape in self._structure.layout.entries}
        return {
            name: torch.cat([own[module, tensor.kind] for module in tensor.modules]).to(tensor.dtype)
            for name, tensor in self._structure.file_tensors.items()
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
        """Bytes of all pages, with their free slots."""
        return sum(page.slot_bytes * page.capacity for page in self._pages)

    def add(self, adapters: Sequence[LoraWeights]) -> list[Slot]:
        """Put adapters into free slots, and into new pages where there are too few; returns a slot for each, in order.

        Raises:
            BadWeights: a number in them is not finite.
        """
        # A tensor that is made in inference mode can't be written outside of it.
        with self._adding, torch.inference_mode(False), torch.no_grad():
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
        layouts = [adapter.structure.layout for adapter in adapters]
        device = next(iter(self.linears.values())).weight.device
        return Page(_widest(layouts), len(adapters), device)

    def _fill(self, page: Page, adapter: LoraWeights) -> Slot:
        _check_finite(adapter)
        slot = Slot(page, page.free.popleft(), adapter.structure)
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
    """Whether a slot of the page is in use, or these adapters would fill it. An almost empty page is freed."""
    fitting = sum(page.fits(adapter) for adapter in adapters)
    return len(page.free) < page.capacity or page.capacity <= MAX_PADDING * fitting


def _widest(layouts: Sequence[TensorLayout]) -> TensorLayout:
    """The smallest layout that can hold all of these, in the order of the first."""
    if all(layout == layouts[0] for layout in layouts):
        return layouts[0]
    shapes = ((key, [layout.shapes[key] for layout in layouts]) for key in layouts[0].shapes)
    return TensorLayout(tuple((key, tuple(map(max, zip(*each, strict=True)))) for key, each in shapes))


def _alike(adapters: Mapping[int, LoraWeights]) -> list[list[int]]:
    """Groups that may share a page: the same tensors, and little padding for each member; largest first."""
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
    keys = [adapter.structure.layout.shapes.keys() for adapter in (larger, smaller)]
    return keys[0] == keys[1] and larger.nbytes <= MAX_PADDING * smaller.nbytes


def _check_finite(adapter: LoraWeights) -> None:
    # The sum is a fast first check. It can overflow although all numbers are finite, so they are checked one by one.
    if not bool(adapter.numbers.sum().isfinite()) and not bool(adapter.numbers.isfinite().all()):
        tensors = adapter.structure.layout.split(adapter.numbers)
        bad = next(name for (name, _), numbers in tensors.items() if not bool(numbers.isfinite().all()))
        raise BadWeights(f"the adapter has numbers that are not finite at {bad}")

"""Slots and pages of the bank: adding, freeing and reusing them changes no other adapter."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.bank.lora_weights import LoraWeights
from adapters.bank.slots import Bank, Slot
from adapters.runtimes.open_runtime import open_runtime
from registry.errors import BadWeights
from tests.support.peft_models import ALL, LINEARS, applied, backbone, peft_model, pixels, read, small_adapter, tokens

# --- slots -----------------------------------------------------------------------------------------------------------


def is_of(slot: Slot, weights: LoraWeights) -> bool:
    tensors = weights.structure.file_tensors.items()
    parts = {name: getattr(weights.modules[tensor.modules[0]], tensor.kind) for name, tensor in tensors}
    actual = slot.tensors()
    return actual.keys() == parts.keys() and all(torch.equal(actual[name], parts[name]) for name in parts)


def test_a_freed_slot_is_filled_again_and_the_bank_does_not_grow() -> None:
    bank = Bank(LINEARS)
    slots = bank.add([small_adapter(number) for number in range(3)])
    before, index = bank.nbytes, slots[1].index
    del slots[1]
    (fresh,) = bank.add([small_adapter(9)])
    assert (bank.nbytes, fresh.index) == (before, index)
    assert is_of(fresh, small_adapter(9))


def test_the_bank_takes_little_more_than_the_adapters_bytes() -> None:
    bank, adapters = Bank(LINEARS), [small_adapter(number, rank) for number, rank in enumerate((2, 2, 8, 8, 7, 16))]
    slots = bank.add(adapters)
    assert bank.nbytes <= 1.2 * sum(one.nbytes for one in adapters)
    assert all(is_of(slot, one) for slot, one in zip(slots, adapters, strict=True))


def test_an_unused_page_is_freed_when_another_structure_arrives() -> None:
    bank = Bank(LINEARS)
    bank.add([small_adapter(number, 40) for number in range(4)])
    gc.collect()
    slots = bank.add([small_adapter(1, 2)])
    assert bank.nbytes == slots[0].nbytes


def test_a_large_page_is_not_kept_for_one_small_part_of_it() -> None:
    bank = Bank(LINEARS)
    bank.add([small_adapter(number, 40) for number in range(8)])
    gc.collect()
    adapters = [small_adapter(0, 40), *(small_adapter(number, 2) for number in range(7))]
    slots = bank.add(adapters)
    assert bank.nbytes <= 1.2 * sum(slot.nbytes for slot in slots)


def test_slots_from_inference_mode_can_be_reused_outside_it() -> None:
    bank = Bank(LINEARS)
    kept = bank.add([small_adapter(0), small_adapter(1)])
    with torch.inference_mode():
        bank.add([small_adapter(number, 9) for number in range(2)])
        kept += bank.add([small_adapter(2, 20), small_adapter(3, 20)])
    del kept[2]
    gc.collect()
    (slot,) = bank.add([small_adapter(4, 20)])
    assert is_of(slot, small_adapter(4, 20))


def test_numbers_that_are_not_finite_free_their_slot_again() -> None:
    bank, bad = Bank(LINEARS), small_adapter(1)
    keeper = bank.add([small_adapter(2), small_adapter(3)])
    del keeper[1]
    bad.modules["second"].b[0, 0] = float("nan")
    with pytest.raises(BadWeights, match="not finite at second"):
        bank.add([bad])
    gc.collect()
    before = bank.nbytes
    (slot,) = bank.add([small_adapter(4)])
    assert bank.nbytes == before
    assert is_of(slot, small_adapter(4))


def test_the_smallest_dora_goes_where_the_one_before_was() -> None:
    bank = Bank(LINEARS)
    keeper = bank.add([small_adapter(1, rank=1, dora=True), small_adapter(2, rank=1, dora=True)])
    before = bank.nbytes
    del keeper[1]
    (slot,) = bank.add([small_adapter(3, rank=1, dora=True)])
    assert bank.nbytes == before
    assert is_of(slot, small_adapter(3, rank=1, dora=True))


@pytest.mark.parametrize("dora", [False, True])
def test_another_order_of_tensors_fits_the_same_page(dora: bool) -> None:
    bank, inputs = Bank(LINEARS), torch.ones(1, 3, 6)
    first, second = (small_adapter(seed, rank=8, dora=dora) for seed in (1, 2))
    turned = LoraWeights.of(dict(reversed(second.modules.items())), second.structure.file_tensors)
    slots = bank.add([first, turned])
    assert slots[0].page is slots[1].page
    assert is_of(slots[1], second)
    assert torch.equal(applied(slots[1:], inputs), applied(Bank(LINEARS).add([second]), inputs))


# --- whatever comes and goes -----------------------------------------------------------------------------------------


Step = tuple[str, int]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 12)),
        st.tuples(st.just("add dora"), st.integers(1, 4)),
        st.tuples(st.just("drop"), st.integers(0, 100)),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_other_slots_never_change_as_adapters_come_and_go(steps: list[Step]) -> None:
    bank, inputs = Bank(LINEARS), torch.ones(1, 3, 6)
    living: list[tuple[Slot, LoraWeights, torch.Tensor]] = []
    for number, (what, value) in enumerate(steps):
        if what == "drop":
            if living:
                living.pop(value % len(living))
            continue
        weights = small_adapter(number, rank=value, dora=what == "add dora")
        (slot,) = bank.add([weights])
        living.append((slot, weights, applied([slot], inputs)))
        assert len({(id(slot.page), slot.index) for slot, _, _ in living}) == len(living)
    for slot, weights, before in living:
        assert is_of(slot, weights)
        assert torch.equal(applied([slot], inputs), before)
    if living:
        rows = torch.cat([inputs] * len(living))
        expected = torch.cat([before for _, _, before in living])
        assert torch.allclose(applied([slot for slot, _, _ in living], rows), expected, atol=1e-4)


def test_answers_stay_equal_while_versions_load_and_unload(tmp_path: Path) -> None:
    """As in serving: readers pin what is live when they start; a loader flips to the next version and drops the last.

    The versions' adapters have the same forms and other weights, so that each goes into slots that another left.
    """
    runtime, images = open_runtime(backbone("dinov3")), pixels(4)
    configs = [{}, {"r": 6}, {"r": 5, "target_modules": ALL["dinov3"]}, {"use_dora": True}]

    def version(number: int) -> list[LoraWeights]:
        models = [peft_model("dinov3", 10 * number + structure, **config) for structure, config in enumerate(configs)]
        return [read(runtime, model, tmp_path / f"{number}-{structure}") for structure, model in enumerate(models)]

    versions = [version(number) for number in range(3)]
    quiet = [tokens(runtime, images, runtime.bank.add(version)) for version in versions]
    assert not torch.equal(quiet[0], quiet[1])
    live = [(0, runtime.bank.add(versions[0]))]
    stop = threading.Event()

    def flip() -> int:
        number = 0
        while not stop.is_set():
            number += 1
            live[0] = (number % 3, runtime.bank.add(versions[number % 3]))
        return number

    def ask(_: int) -> set[int]:
        seen = set()
        for _ in range(30):
            number, slots = live[0]
            assert torch.equal(tokens(runtime, images, slots), quiet[number])
            seen.add(number)
        return seen

    with ThreadPoolExecutor(4) as threads:
        flipping = threads.submit(flip)
        try:
            seen = set().union(*threads.map(ask, range(3)))
        finally:
            stop.set()
    assert flipping.result() > 3
    assert len(seen) > 1

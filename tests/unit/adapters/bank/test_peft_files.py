"""Adapters are read from PEFT's files without loss, and damaged files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from adapters.backbone.families import family_named
from adapters.bank.lora_weights import LoraWeights
from adapters.bank.peft_files import read_adapter
from adapters.bundle import BundleFiles
from adapters.runtimes.open_runtime import open_runtime
from registry.errors import BadWeights
from tests.support.peft_models import backbone, peft_model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with an adapter of q and v, as PEFT saves it."""
    peft_model("dinov2", 3).save_pretrained(tmp_path)
    return tmp_path


def read_saved(folder: Path) -> LoraWeights:
    files = BundleFiles({f"adapter/{path.name}": path for path in folder.iterdir()})
    return read_adapter(files, "adapter", family_named("dinov2"), open_runtime(backbone("dinov2")).bank.linears)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_dtypes_are_read_as_float32_and_restored(dtype: torch.dtype, saved: Path) -> None:
    place = saved / "adapter_model.safetensors"
    narrow = {name: tensor.to(dtype) for name, tensor in load_file(place).items()}
    save_file(narrow, place)
    (slot,) = open_runtime(backbone("dinov2")).bank.add([read_saved(saved)])
    tensors = slot.tensors()
    assert tensors.keys() == narrow.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in narrow.items())


def test_numbers_of_two_types_in_one_file_go_to_their_modules(saved: Path) -> None:
    place = saved / "adapter_model.safetensors"
    mixed = {name: tensor.half() if ".2." in name else tensor for name, tensor in load_file(place).items()}
    save_file(mixed, place)  # it puts all float32 before all float16
    (slot,) = open_runtime(backbone("dinov2")).bank.add([read_saved(saved)])
    tensors = slot.tensors()
    assert tensors.keys() == mixed.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in mixed.items())


def test_adapters_of_equal_structure_keep_their_own_numbers(saved: Path) -> None:
    place = saved / "adapter_model.safetensors"
    first, numbers = read_saved(saved), load_file(place)
    save_file({name: 2 * tensor for name, tensor in numbers.items()}, saved / "other", metadata={"format": "pt"})
    place.unlink()
    (saved / "other").rename(place)
    second = read_saved(saved)
    assert second.structure is first.structure
    assert torch.equal(second.numbers, 2 * first.numbers)


def test_the_same_numbers_under_another_alpha_have_another_scale(saved: Path) -> None:
    place = saved / "adapter_config.json"
    before = read_saved(saved)
    place.write_text(json.dumps({**json.loads(place.read_text()), "lora_alpha": 24}))
    after = read_saved(saved)
    assert {module.scale for module in before.modules.values()} == {2.0}
    assert {module.scale for module in after.modules.values()} == {6.0}


def test_a_truncated_file_with_a_cached_header_is_refused(saved: Path) -> None:
    place = saved / "adapter_model.safetensors"
    read_saved(saved)
    place.write_bytes(place.read_bytes()[:-4])
    with pytest.raises(BadWeights, match="truncated"):
        read_saved(saved)


def test_a_cached_structure_is_checked_for_each_backbone(saved: Path) -> None:
    read_saved(saved)
    files = BundleFiles({f"adapter/{path.name}": path for path in saved.iterdir()})
    linears = {name: nn.Linear(7, 7) for name in open_runtime(backbone("dinov2")).bank.linears}
    with pytest.raises(BadWeights, match="the backbone needs"):
        read_adapter(files, "adapter", family_named("dinov2"), linears)

"""Adapters that PEFT made on the tiny backbones, and the same in a bank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from adapters.backbone.build import new_model
from adapters.backbone.families import family_named
from adapters.backbone.locate import TINY
from adapters.backbone.resolve import ref_of_folder
from adapters.bank.apply import BatchAdapters
from adapters.bank.lora_weights import FileTensor, LoraModule, LoraWeights
from adapters.bank.peft_files import read_adapter
from adapters.bank.slots import Slot
from adapters.bundle import BundleFiles
from adapters.runtimes.interface import Runtime
from registry.versions.manifest import BackboneRef

ALL = {
    "dinov2": ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"],
    "dinov3": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
}


FAMILIES = sorted(ALL)


def backbone(family: str) -> BackboneRef:
    return ref_of_folder(TINY / f"{family}-tiny")


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


def shaken(model: nn.Module, seed: int) -> nn.Module:
    """The model with its adapters' weights moved away from where PEFT starts them."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=random) * 0.05)
    return model.eval()


def peft_model(family: str, seed: int, **config: Any) -> Any:
    torch.manual_seed(seed)
    chosen = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]} | config
    return shaken(get_peft_model(new_model(backbone(family)), LoraConfig(**chosen)), seed)


def read(runtime: Runtime, model: Any, folder: Path) -> LoraWeights:
    """What PEFT saves of a model's adapter, read as a bundle's."""
    model.save_pretrained(folder)
    files = BundleFiles({f"adapter/{path.name}": path for path in folder.iterdir()})
    return read_adapter(files, "adapter", family_named(runtime.ref.family), runtime.bank.linears)


def tokens(runtime: Runtime, images: torch.Tensor, slots: Sequence[Slot | None]) -> torch.Tensor:
    walk = runtime.start(images, slots)
    walk.advance(6)
    return walk.pooled("cls+mean", norm=True)


LINEARS = {"first": nn.Linear(6, 5), "second": nn.Linear(5, 6)}


def small_adapter(
    seed: int, rank: int = 2, modules: Sequence[str] = ("first", "second"), dora: bool = False
) -> LoraWeights:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    made = {
        name: LoraModule(
            normal(rank, LINEARS[name].in_features),
            normal(LINEARS[name].out_features, rank),
            0.5,
            normal(LINEARS[name].out_features) if dora else None,
        )
        for name in modules
    }
    parts = ("a", "b", *(("magnitude",) if dora else ()))
    sources = {f"{name}.{part}": FileTensor((name,), part, torch.float32) for name in modules for part in parts}
    return LoraWeights.of(made, sources)


def applied(slots: Sequence[Slot | None], inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return BatchAdapters(slots, "cpu").change("first", LINEARS["first"], inputs, LINEARS["first"](inputs))

"""Backbones, adapters and bundles for benchmarks: real architectures and sizes, random weights from a seed.

Speed and memory depend on shapes, not on the weights. Where accuracy matters (`benchmarks.depth`), weights and images
are real.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapters import bundle
from adapters.answer.heads import LinearHead
from adapters.answer.ood import Mahalanobis
from adapters.backbone.families import Family, family_named
from adapters.backbone.features import FeatureSpec
from adapters.backbone.locate import CONFIG, TINY, WEIGHTS
from adapters.backbone.resolve import ref_of_folder
from adapters.bundle import BundleFiles
from registry.versions.manifest import BackboneRef

SIZES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "vit-b": (
        "dinov2",
        {
            "model_type": "dinov2", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
            "patch_size": 14, "image_size": 518,
        },
    ),
    "vit-l": (
        "dinov3",
        {
            "model_type": "dinov3_vit", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
            "intermediate_size": 4096, "patch_size": 16, "image_size": 224, "num_register_tokens": 4,
        },
    ),
}  # fmt: skip
"""Family and configuration: DINOv2 ViT-B/14 and DINOv3 ViT-L/16, as released."""

SHIPPED = {"tiny": "dinov2-tiny", "tiny-dinov3": "dinov3-tiny"}
"""The tiny backbones that ship with this package, by size; for a quick check that a benchmark runs."""

MODULES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "q,v": dict.fromkeys(("dinov2", "dinov3"), ("q_proj", "v_proj")),
    "all-linear": {
        "dinov2": ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"),
        "dinov3": ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"),
    },
}
"""The modules with a LoRA, by family."""

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class SyntheticBackbone:
    """A backbone for benchmarks: its reference, and the folder of its files."""

    ref: BackboneRef
    folder: Path

    @property
    def family(self) -> Family:
        """Its family."""
        return family_named(self.ref.family)

    @property
    def side(self) -> int:
        """The side of its input images in pixels."""
        return int(self.family.preprocessing(self.ref.config)["crop"])

    @cached_property
    def linears(self) -> Mapping[str, tuple[int, int]]:
        """The modules that adapters may change: name -> inputs and outputs."""
        with torch.device("meta"):
            model = self.family.new_model(self.ref.config)
        return {name: (one.in_features, one.out_features) for name, one in self.family.linears_of(model).items()}

    def pixels(self, count: int, seed: int = 0) -> torch.Tensor:
        """Random input images, [count, 3, side, side]."""
        return torch.randn(count, 3, self.side, self.side, generator=torch.Generator().manual_seed(seed))

    def skeleton(self) -> torch.nn.Module:
        """Its modules without weights, for shapes only. They take no memory until they are written to."""
        with torch.device("meta"):
            model: torch.nn.Module = self.family.new_model(self.ref.config)
        return model.to_empty(device="cpu")


def make_backbone(folder: Path, size: str, seed: int = 0) -> SyntheticBackbone:
    """A backbone of a size. The tiny ones are those of this package, others are written into `folder`."""
    if size in SHIPPED:
        shipped = TINY / SHIPPED[size]
        return SyntheticBackbone(ref_of_folder(shipped), shipped)
    family, config = SIZES[size]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family_named(family).new_model(dict(config))
    place = folder / size
    bundle.write_document(place / CONFIG, config)
    bundle.write_tensors(place / WEIGHTS, model.state_dict())
    return SyntheticBackbone(ref_of_folder(place), place)


def made_of(size: str) -> SyntheticBackbone:
    """A backbone without files, for shapes only."""
    family, config = SIZES[size]
    ref = BackboneRef(family=family, sha256="0" * 64, name=size, config=dict(config))
    return SyntheticBackbone(ref, Path(size))


def lora_tensors(backbone: SyntheticBackbone, modules: Sequence[str], rank: int, seed: int) -> dict[str, torch.Tensor]:
    """A LoRA's weights under PEFT's names, small enough that outputs stay finite."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (inputs, outputs) in backbone.linears.items():
        if name.rpartition(".")[2] in modules:
            tensors[f"{_PREFIX}{name}.lora_A.weight"] = _normal(random, rank, inputs)
            tensors[f"{_PREFIX}{name}.lora_B.weight"] = _normal(random, outputs, rank)
    return tensors


def lora_config(modules: Sequence[str], rank: int) -> dict[str, Any]:
    """An `adapter_config.json`."""
    known = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(modules), "bias": "none"}
    return known | {"base_model_name_or_path": "random", "lora_dropout": 0.0, "inference_mode": True}


def write_lora(folder: Path, backbone: SyntheticBackbone, modules: Sequence[str], rank: int, seed: int) -> Path:
    """Write a PEFT folder and return it."""
    bundle.write_document(folder / bundle.ADAPTER_CONFIG, lora_config(modules, rank))
    bundle.write_tensors(folder / bundle.ADAPTER_WEIGHTS, lora_tensors(backbone, modules, rank, seed))
    return folder


def lora_files(folder: Path) -> BundleFiles:
    """A PEFT folder as the folder `adapter` of a bundle."""
    return BundleFiles({f"adapter/{path.name}": path for path in folder.iterdir()})


def write_bundle(
    folder: Path, backbone: SyntheticBackbone, *, targets: Sequence[str], modules: Sequence[str], rank: int, seed: int
) -> dict[str, Path]:
    """Write a bundle with a LoRA, a linear head and a detector per target; returns its files by their paths in it."""
    preprocessing = backbone.family.preprocessing(backbone.ref.config)
    spec, width = (
        FeatureSpec(int(backbone.ref.config["num_hidden_layers"]), "cls"),
        int(backbone.ref.config["hidden_size"]),
    )
    bundle.write_document(folder / bundle.BACKBONE, backbone.ref.model_dump(mode="json"))
    bundle.write_document(folder / bundle.PREPROCESSING, preprocessing)
    bundle.write_document(folder / bundle.INFERENCE, bundle.DEFAULT_INFERENCE)
    for number, target in enumerate(targets):
        inner, labels = folder / bundle.adapter_folder(target), ("healthy", "rust", "blight")
        write_lora(inner, backbone, modules, rank, seed * 1000 + number)
        bundle.save(inner, bundle.HEAD, head_at(spec, labels, width, seed))
        bundle.save(inner, bundle.OOD, detector_at(spec, labels, width))
        bundle.write_document(inner / bundle.COMPONENT, bundle.component_document(labels, backbone.ref, preprocessing))
    return files_of(folder)


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a bundle by their paths in it."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def noise(count: int, side: int, seed: int = 0) -> list[np.ndarray]:
    """Random images, [side, side, 3] uint8 each."""
    return list(np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def head_at(spec: FeatureSpec, labels: tuple[str, ...], width: int, seed: int) -> LinearHead:
    """A linear head on features that are `width` wide."""
    weight = _normal(torch.Generator().manual_seed(seed), len(labels), width)
    return LinearHead(labels, spec, weight, torch.zeros(len(labels)))


def detector_at(spec: FeatureSpec, labels: tuple[str, ...], width: int) -> Mahalanobis:
    """A detector on features that are `width` wide."""
    means = torch.nn.functional.normalize(torch.ones(len(labels), width), dim=1)
    return Mahalanobis(labels, spec, means, torch.eye(width), torch.full((len(labels),), 4.0), 0.05)


def _normal(random: torch.Generator, *shape: int) -> torch.Tensor:
    return 0.05 * torch.randn(*shape, generator=random)

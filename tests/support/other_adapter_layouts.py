"""Adapters in the layouts of other systems, made with torch and PEFT on the tiny backbones, and a reading of them.

Each maker writes the files as those systems do, with the module names of transformers 4, and gives a `Reading`: what
their own code computes, straightforwardly, from the objects that the files were made of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from adapters.backbone.build import new_model
from adapters.backbone.families import family_named
from adapters.backbone.locate import TINY
from adapters.backbone.preprocess import Preprocessing
from adapters.backbone.resolve import ref_of_folder
from tests.support.bundles import noise

LABELS = ("healthy", "rust", "blight")
IMAGES = [noise(seed) for seed in range(6)]
DINOV2_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}
"""What transformers 4 called DINOv2's modules."""

Judge = Callable[[torch.Tensor, torch.Tensor, int], tuple[float, float]]
"""One embedding [width] and its logits [classes], and the predicted class -> raw score and threshold."""


@dataclass(frozen=True)
class Reading:
    """What the system that an adapter comes from makes of images: logits [N, classes], raw scores, thresholds."""

    model: nn.Module
    embed: Callable[[Any], torch.Tensor]
    classifier: nn.Linear
    judge: Judge
    family: str

    def __call__(self, images: Sequence[np.ndarray] = IMAGES) -> tuple[torch.Tensor, list[tuple[float, float]]]:
        ref = ref_of_folder(TINY / f"{self.family}-tiny")
        preprocessing = Preprocessing.of(family_named(self.family).preprocessing(ref.config))
        with torch.no_grad():
            output = self.model(torch.stack([preprocessing(image) for image in images]), output_hidden_states=True)
            embedding = self.embed(output)
            logits = self.classifier(embedding)
        classes = logits.argmax(dim=1).tolist()
        return logits, [self.judge(*row) for row in zip(embedding, logits, classes, strict=True)]


def write_phase(folder: Path, *, seed: int = 0, phase: int = 3, labels: Sequence[str] = LABELS, **meta: Any) -> Reading:
    """An adapter of the `models/phase*` layout into `folder`: DoRA on q and v of DINOv2, CLS, Mahalanobis."""
    torch.manual_seed(seed)
    model = _adapted("dinov2", targets=["q_proj", "v_proj"], rank=4, use_dora=True)
    classifier = nn.Linear(96, len(labels))
    nn.init.normal_(classifier.weight, std=0.5)
    mean, spread = torch.randn(96), torch.randn(96, 96)
    covariance = spread @ spread.T / 96 + torch.eye(96)
    inverse = torch.linalg.inv(covariance)
    thresholds = {number: 12.0 + number for number in range(len(labels))}
    _write_peft(folder / "adapter", model, DINOV2_NAMES, "pytorch_model.bin", backbone="dinov2-tiny")
    torch.save(classifier.state_dict(), folder / "classifier.pth")
    known = {"is_trained": True, "current_phase": phase, "class_to_idx": {name: n for n, name in enumerate(labels)}}
    sizes = {"classifier_input_size": 96, "classifier_output_size": len(labels)}
    _write_json(folder / "adapter_meta.json", known | sizes | {"farm": "north"} | meta)
    torch.save(
        {
            "prototypes": torch.randn(len(labels), 96),
            "mahalanobis": {"mean": mean, "covariance": covariance, "inv_covariance": inverse},
            "thresholds": thresholds,
            "class_std": {number: torch.rand(96) for number in range(len(labels))},
            "calibrated_on": "validation",
        },
        folder / "ood_components.pt",
    )
    _write_json(folder / "manifest.json", {"phase": f"phase{phase}"})

    def judge(embedding: torch.Tensor, logits: torch.Tensor, predicted: int) -> tuple[float, float]:
        centred = (embedding - mean)[None]
        return float(torch.sqrt(torch.sum(centred @ inverse * centred, dim=1))), thresholds[predicted]

    return Reading(model, lambda output: output.last_hidden_state[:, 0], classifier.eval(), judge, "dinov2")


def write_release(
    folder: Path, *, seed: int = 0, method: str = "ensemble", labels: Sequence[str] = LABELS, width: int = 24
) -> Reading:
    """An adapter of the `continual_sd_lora_adapter` layout into `folder`: LoRA on all linears of DINOv3, a fusion."""
    torch.manual_seed(seed)
    linears = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    model = _adapted("dinov3", targets=linears, rank=3)
    fusion, layers = Fusion(96, width, 4).eval(), (1, 3, 5, 11)
    classifier = nn.Linear(width, len(labels))
    _write_peft(folder, model, {"model.layer": "layer"}, "adapter_model.safetensors", backbone="dinov3-tiny")
    torch.save(fusion.state_dict(), folder / "fusion.pth")
    torch.save(classifier.state_dict(), folder / "classifier.pth")
    stats = {str(number): _class_stats(width) for number in range(len(labels))}
    state = {"class_stats": stats, "primary_score_method": method, "radial_l2_enabled": True, "radial_beta": 1.75}
    meta = {
        "schema_version": "v6",
        "backbone": {"model_name": "dinov3-tiny", "frozen": True},
        "fusion": {"layers": list(layers), "output_dim": width, "dropout": 0.1, "gating": "softmax"},
        "class_to_idx": {name: number for number, name in enumerate(labels)},
        "ood_state": state | {"energy_temperature": 1.5, "conformal_alpha": 0.05, "threshold_factor": 2.0},
    }
    _write_json(folder / "adapter_meta.json", meta)
    _write_json(folder / "production_readiness.json", {"status": "failed", "accuracy": 0.8995})
    (folder / "README.md").write_text("# An adapter\n")
    (folder / "DINOV3_LICENSE.md").write_text("A licence.\n")

    def embed(output: Any) -> torch.Tensor:
        states = output.hidden_states
        return fusion([states[min(layer, len(states) - 1)].mean(dim=1) for layer in layers])

    def judge(embedding: torch.Tensor, logits: torch.Tensor, predicted: int) -> tuple[float, float]:
        mine = stats[str(predicted)]
        feature = 1.75 * embedding / embedding.norm()
        energy = float(-1.5 * torch.logsumexp(logits / 1.5, dim=0))
        if method == "energy":
            return energy, mine["energy_threshold"]
        if method == "knn":
            distances = sorted(float((feature - torch.tensor(vector)).norm()) for vector in mine["knn_bank"])
            return sum(distances[: mine["knn_k"]]) / mine["knn_k"], mine["knn_threshold"]
        distance = float((((feature - torch.tensor(mine["mean"])) ** 2) / torch.tensor(mine["var"])).sum().sqrt())
        distance_z = (distance - mine["mahalanobis_mu"]) / mine["mahalanobis_sigma"]
        energy_z = (energy - mine["energy_mu"]) / mine["energy_sigma"]
        return 0.6 * distance_z + 0.4 * energy_z, mine["threshold"]

    return Reading(model, embed, classifier.eval(), judge, "dinov3")


def write_peft(folder: Path, *, seed: int = 0, labels: Sequence[str] = ()) -> nn.Module:
    """A plain PEFT folder on DINOv2 under transformers 4's names, with a saved classifier if there are labels."""
    torch.manual_seed(seed)
    model = _adapted("dinov2", targets=["q_proj", "o_proj"], rank=2)
    extra = {}
    if labels:
        extra = {"base_model.model.classifier.weight": torch.randn(len(labels), 192)}
        extra |= {"base_model.model.classifier.bias": torch.randn(len(labels))}
        _write_json(folder / "config.json", {"label2id": {name: number for number, name in enumerate(labels)}})
    saved = {"modules_to_save": ["classifier"]} if labels else {}
    _write_peft(folder, model, DINOV2_NAMES, "adapter_model.safetensors", "dinov2-tiny", extra=extra, **saved)
    return model


class Fusion(nn.Module):
    """Several layers' means, projected, weighted by a softmax, summed, normalised."""

    def __init__(self, inputs: int, width: int, layers: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList([nn.Linear(inputs, width) for _ in range(layers)])
        self.scale_logits = nn.Parameter(torch.randn(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, means: Sequence[torch.Tensor]) -> torch.Tensor:
        weights = torch.softmax(self.scale_logits, dim=0)
        pairs = zip(weights, self.projections, means, strict=True)
        return self.norm(sum(weight * projection(mean) for weight, projection, mean in pairs))  # type: ignore[arg-type]


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file."""
    document = json.loads(path.read_text())
    change(document)
    _write_json(path, document)


def _class_stats(width: int) -> dict[str, Any]:
    numbers = ("mahalanobis_mu", "mahalanobis_sigma", "energy_mu", "energy_sigma", "threshold", "energy_threshold")
    stats: dict[str, Any] = {name: 1 + float(torch.rand(())) for name in numbers}
    stats |= {"energy_mu": -2.0, "energy_threshold": -1.6 + float(torch.rand(())), "knn_threshold": 2.0, "knn_k": 3}
    tables = {"mean": torch.randn(width), "var": torch.rand(width) + 0.5, "knn_bank": torch.randn(7, width)}
    return stats | {name: table.tolist() for name, table in tables.items()} | {"sure_semantic_threshold": 0.5}


def _adapted(family: str, *, targets: Sequence[str], rank: int, **options: Any) -> nn.Module:
    """A tiny backbone with a LoRA that changes what it computes."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), lora_dropout=0.1, **options)
    model = get_peft_model(new_model(ref_of_folder(TINY / f"{family}-tiny")), config).eval()  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def _write_peft(
    folder: Path,
    model: Any,
    old_names: Mapping[str, str],
    weights: str,
    backbone: str,
    extra: Mapping[str, torch.Tensor] | None = None,
    **fields: Any,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {_old(name, old_names): tensor.contiguous() for name, tensor in state.items()}
    tensors |= extra or {}
    if weights.endswith(".bin"):
        torch.save(tensors, folder / weights)
    else:
        save_file(tensors, folder / weights)
    config = model.peft_config["default"].to_dict()
    targets = sorted(_old(f"attention.{name}", old_names).rpartition(".")[2] for name in config["target_modules"])
    config |= {"target_modules": targets, "base_model_name_or_path": backbone, "peft_type": "LORA", **fields}
    _write_json(folder / "adapter_config.json", json.loads(json.dumps(config, default=sorted)))


def _old(name: str, old_names: Mapping[str, str]) -> str:
    for new, old in old_names.items():
        name = name.replace(new, old)
    return name


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))

"""Bundles for tests: complete and loadable, on the tiny backbones, made in milliseconds without torch or training.

Their answers are those of random weights: the same for the same seed, and different for another.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from adapters import bundle
from adapters.backbone.families import family_named
from adapters.backbone.locate import TINY
from adapters.backbone.resolve import ref_of_folder
from registry.formats import canonical
from registry.versions.manifest import BackboneRef, Component, FileEntry, Manifest

LABELS = {
    "low": ("zero", "one", "two", "three"),
    "mid": ("four", "five", "six"),
    "high": ("seven", "eight", "nine"),
}
"""Labels of the targets that have a name of their own here; any other target has `healthy` and `sick`."""

_RANK = 4
_LAYERS = {"dinov2": "encoder.layer", "dinov3": "model.layer"}


def write_bundle(
    folder: Path, *, family: str = "dinov3", seed: int = 0, targets: Sequence[str] = ("low", "mid", "high")
) -> Path:
    """Write a bundle without golden outputs into `folder` and return it: `self_test` has nothing to check."""
    backbone = ref_of_folder(TINY / f"{family}-tiny")
    preprocessing = family_named(family).preprocessing(backbone.config)
    bundle.write_document(folder / bundle.BACKBONE, backbone.model_dump(mode="json"))
    bundle.write_document(folder / bundle.PREPROCESSING, preprocessing)
    bundle.write_document(folder / bundle.INFERENCE, bundle.DEFAULT_INFERENCE)
    for position, target in enumerate(targets):
        labels = LABELS.get(target, ("healthy", "sick"))
        inner = folder / bundle.adapter_folder(target)
        random = np.random.default_rng([seed, position])
        _write_lora(inner, backbone, random)
        _write_head(inner, labels, backbone, random)
        _write_ood(inner, labels, backbone, random)
        bundle.write_document(inner / bundle.COMPONENT, bundle.component_document(labels, backbone, preprocessing))
    router = folder / bundle.ROUTER
    _write_head(router, targets, backbone, np.random.default_rng([seed, 1000]))
    bundle.write_document(router / bundle.COMPONENT, bundle.component_document(targets, backbone, preprocessing))
    return folder


def read_bundle(folder: Path) -> Mapping[str, Path]:
    """A bundle's files, as `load` takes them: path inside it to the file on disk."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def manifest_of(folder: Path, *, version: str = "v1.0.0-dinov3", model: str = "aads-ulora") -> Manifest:
    """A bundle's manifest, without parents or provenance: what `adapters.answer.loading.load` needs."""
    backbone = BackboneRef.model_validate(json.loads((folder / bundle.BACKBONE).read_bytes()))
    files = tuple(_entry(path, place) for path, place in sorted(read_bundle(folder).items()))
    components = {
        path.parent.relative_to(folder).as_posix(): Component(requires=json.loads(path.read_bytes())["requires"])
        for path in sorted(folder.rglob(bundle.COMPONENT))
    }
    return Manifest.make(
        model=model,
        version=version,
        flavor="dino-lora",
        backbone=backbone,
        components=components,
        files=files,
        timestamp="2026-01-01T00:00:00Z",
    )


def crop_to(folder: Path, side: int) -> Path:
    """Let a bundle take squares of another size."""
    preprocessing = json.loads((folder / bundle.PREPROCESSING).read_bytes()) | {"resize": side, "crop": side}
    bundle.write_document(folder / bundle.PREPROCESSING, preprocessing)
    for path in folder.rglob(bundle.COMPONENT):
        document = json.loads(path.read_bytes())
        document["requires"]["preprocessing"] = canonical.digest(preprocessing)
        bundle.write_document(path, document)
    return folder


def add_goldens(folder: Path, *, count: int = 3) -> Path:
    """Record the bundle's outputs for some random images, which `self_test` checks. Needs torch."""
    from adapters.answer.loading import load_bundle

    loaded = load_bundle(read_bundle(folder))
    images = np.stack([noise(seed) for seed in range(count)])
    bundle.write_tensors(folder / bundle.ROUTER / bundle.GOLDEN, loaded.golden_outputs(images, None))
    for target in loaded.targets:
        inner = folder / bundle.adapter_folder(target)
        bundle.write_tensors(inner / bundle.GOLDEN, loaded.golden_outputs(images, target))
    return folder


def noise(seed: int, side: int = 28) -> np.ndarray:
    """A random image, [side, side, 3] uint8."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def png(seed: int, side: int = 28) -> bytes:
    """The same as a PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(noise(seed, side)).save(buffer, format="PNG")
    return buffer.getvalue()


def _write_lora(folder: Path, backbone: BackboneRef, random: np.random.Generator) -> None:
    config = {"peft_type": "LORA", "r": _RANK, "lora_alpha": 2 * _RANK, "target_modules": ["q_proj", "v_proj"]}
    config |= {"base_model_name_or_path": backbone.name, "bias": "none", "lora_dropout": 0.0, "inference_mode": True}
    width = backbone.config["hidden_size"]
    weights = {}
    for layer in range(backbone.config["num_hidden_layers"]):
        for module in ("q_proj", "v_proj"):
            name = f"base_model.model.{_LAYERS[backbone.family]}.{layer}.attention.{module}"
            weights[f"{name}.lora_A.weight"] = _normal(random, _RANK, width)
            weights[f"{name}.lora_B.weight"] = _normal(random, width, _RANK)
    bundle.write_document(folder / bundle.ADAPTER_CONFIG, config)
    bundle.write_tensors(folder / bundle.ADAPTER_WEIGHTS, weights)


def _write_head(folder: Path, labels: Sequence[str], backbone: BackboneRef, random: np.random.Generator) -> None:
    inputs = 2 * backbone.config["hidden_size"]
    document = {"kind": "linear", "features": "cls+mean", "inputs": inputs, "labels": list(labels)}
    # Wide rows, so that the random router and heads are sure of themselves.
    tensors = {"weight": 40 * _normal(random, len(labels), inputs), "bias": _normal(random, len(labels))}
    bundle.write_document(folder / f"{bundle.HEAD}.json", document)
    bundle.write_tensors(folder / f"{bundle.HEAD}.safetensors", tensors)


def _write_ood(folder: Path, labels: Sequence[str], backbone: BackboneRef, random: np.random.Generator) -> None:
    inputs = 2 * backbone.config["hidden_size"]
    document = {
        "kind": "mahalanobis",
        "features": "cls+mean",
        "inputs": inputs,
        "labels": list(labels),
        "false_alarm_rate": 0.05,
        "calibration": {"split": "val", "images": 0, "images_per_label": dict.fromkeys(labels, 0)},
    }
    means = _normal(random, len(labels), inputs)
    tensors = {
        "means": means / np.linalg.norm(means, axis=1, keepdims=True),
        "whitening": np.eye(inputs, dtype=np.float32),
        "thresholds": np.full(len(labels), 4.0, dtype=np.float32),
    }
    bundle.write_document(folder / f"{bundle.OOD}.json", document)
    bundle.write_tensors(folder / f"{bundle.OOD}.safetensors", tensors)


def _normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    return (0.1 * random.standard_normal(shape)).astype(np.float32)


def _entry(path: str, place: Path) -> FileEntry:
    data = place.read_bytes()
    return FileEntry(path=path, size=len(data), sha256=canonical.sha256(data))

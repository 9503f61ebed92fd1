"""Out-of-distribution detectors: Mahalanobis distance to the predicted class, in units of the class's threshold.

The covariance is shared by the classes and shrunk (Ledoit and Wolf 2004), the features are l2-normalised; see Lee et
al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples", 2018. `adapters.fitting.mahalanobis` fits
one. Detectors of other kinds come with imported adapters: `adapters.answer.ood_imported`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch.nn import functional

from adapters.answer.heads import HeadOutput, check_width, read_labels
from adapters.backbone.features import FeatureSpec
from adapters.bundle import OOD, BundleFiles, check_shapes
from registry.errors import BadManifest, BadWeights

RUNTIME_THRESHOLDS = re.compile(r"thresholds@([a-z0-9][a-z0-9.-]{0,39})")
"""The name of the tensor with a runtime's own thresholds."""


class Detector(Protocol):
    """Tells out-of-distribution images from images of the target, by the output of the head."""

    @property
    def labels(self) -> tuple[str, ...]:
        """One per class, as in the head."""

    @property
    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        """The features that it takes; empty if it uses only `embedding` and `logits`."""

    def __call__(self, output: HeadOutput) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [N], 1 at the threshold and higher when less like the predicted class; flags [N], true above it."""

    def for_runtime(self, name: str) -> Detector:
        """The detector with that runtime's own thresholds; itself if it has none."""

    def document(self) -> dict[str, Any]:
        """The content of `ood.json`."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """The content of `ood.safetensors`."""


@dataclass(frozen=True)
class Mahalanobis:
    """Mahalanobis distance to the predicted class, in units of that class's threshold.

    Attributes:
        labels: one per class, as in the head.
        feature_spec: the features that it takes.
        means: [classes, inputs] of l2-normalised features.
        whitening: [inputs, inputs], W with W Wᵀ = the inverse of the shared covariance.
        thresholds: [classes], in distances, for the reference runtime.
        false_alarm_rate: what the thresholds were calibrated for.
        calibration: on what: the split, the number of images in all and per label, how the features were chosen,
            warnings; and under `runtimes` the same of the other runtimes.
        runtime_thresholds: runtime -> [classes], for runtimes whose features differ a little from the reference's.
        runtime: the runtime whose thresholds are used; None for the reference.
    """

    labels: tuple[str, ...]
    feature_spec: FeatureSpec
    means: torch.Tensor
    whitening: torch.Tensor
    thresholds: torch.Tensor
    false_alarm_rate: float
    calibration: Mapping[str, Any] = field(default_factory=dict)
    runtime_thresholds: Mapping[str, torch.Tensor] = field(default_factory=dict)
    runtime: str | None = None

    @property
    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        """The features that it takes."""
        return (self.feature_spec,)

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about the calibration in use, for people."""
        others = self.calibration.get("runtimes", {})
        return tuple((self.calibration if self.runtime is None else others.get(self.runtime, {})).get("notes", ()))

    def __call__(self, output: HeadOutput) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [N], 1 at the threshold and higher when less like the predicted class; flags [N], true above it."""
        predicted = output.predicted
        thresholds = self.thresholds if self.runtime is None else self.runtime_thresholds[self.runtime]
        scores = (
            distances(output.features[self.feature_spec], predicted, self.means, self.whitening) / thresholds[predicted]
        )
        return scores, scores > 1

    def for_runtime(self, name: str) -> Mahalanobis:
        """The detector with that runtime's own thresholds; itself if it has none."""
        return replace(self, runtime=name) if name in self.runtime_thresholds else self

    def document(self) -> dict[str, Any]:
        """The content of `ood.json`."""
        return {
            "kind": "mahalanobis",
            "features": self.feature_spec.document(),
            "inputs": self.means.shape[1],
            "labels": list(self.labels),
            "false_alarm_rate": self.false_alarm_rate,
            "calibration": dict(self.calibration),
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """The content of `ood.safetensors`."""
        own = {thresholds_name(name): thresholds for name, thresholds in self.runtime_thresholds.items()}
        return {"means": self.means, "whitening": self.whitening, "thresholds": self.thresholds, **own}


def read_detector(files: BundleFiles, folder: str, hidden_size: int, depth: int, device: str) -> Detector:
    """Read the detector in a folder of a bundle.

    Args:
        hidden_size, depth: the backbone's width and number of blocks.

    Raises:
        BadManifest, BadWeights, MissingBlob: when a file is missing, malformed, or does not fit the backbone.
    """
    path = f"{folder}/{OOD}"
    document = files.document(f"{path}.json")
    tensors = {name: tensor.to(device) for name, tensor in files.tensors(f"{path}.safetensors").items()}
    kind = document.get("kind")
    if kind == "mahalanobis":
        return _read_mahalanobis(document, tensors, hidden_size, depth, path)
    from adapters.answer.ood_imported import READERS  # imported on first use, because few bundles need it

    if not isinstance(kind, str) or kind not in READERS:
        raise BadManifest(f"{path}: a detector of kind {str(kind)[:40]!r} is not known to this release")
    return READERS[kind](document, tensors, path)


def distances(
    features: torch.Tensor, classes: torch.Tensor, means: torch.Tensor, whitening: torch.Tensor
) -> torch.Tensor:
    """The Mahalanobis distance of each row to its class: [N, inputs], [N] -> [N]."""
    centred = functional.normalize(features, dim=1) - means[classes]
    lengths: torch.Tensor = (centred @ whitening).norm(dim=1)
    return lengths


def thresholds_name(runtime: str) -> str:
    """The name of the tensor with the thresholds for a runtime."""
    return f"thresholds@{runtime}"


def _read_mahalanobis(
    document: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], hidden_size: int, depth: int, path: str
) -> Mahalanobis:
    labels, spec = read_labels(document, path), FeatureSpec.of(document.get("features"), depth, path)
    inputs = check_width(document, "inputs", path, spec.width(hidden_size))
    rate = document.get("false_alarm_rate")
    if not isinstance(rate, float) or not 0 < rate < 1:
        raise BadManifest(f"{path}: false_alarm_rate is {str(rate)[:40]!r}, not a number between 0 and 1")
    runtimes = {match[1]: name for name in tensors if (match := RUNTIME_THRESHOLDS.fullmatch(name))}
    shapes: dict[str, tuple[int, ...]] = {"means": (len(labels), inputs), "whitening": (inputs, inputs)}
    shapes |= dict.fromkeys(["thresholds", *runtimes.values()], (len(labels),))
    check_shapes(tensors, shapes, path)
    if not all(bool((tensors[name] > 0).all()) for name in ("thresholds", *runtimes.values())):
        raise BadWeights(f"{path} has a threshold that is not positive")
    return Mahalanobis(
        labels,
        spec,
        tensors["means"],
        tensors["whitening"],
        tensors["thresholds"],
        rate,
        _read_calibration(document, path),
        {runtime: tensors[name] for runtime, name in runtimes.items()},
    )


def _read_calibration(document: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    calibration = document.get("calibration", {})
    runtimes = calibration.get("runtimes", {}) if isinstance(calibration, dict) else None
    if not isinstance(runtimes, dict):
        raise BadManifest(f"{path}: calibration is not an object of what the thresholds rest on")
    for record in (calibration, *runtimes.values()):
        notes = record.get("notes", []) if isinstance(record, dict) else None
        if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
            raise BadManifest(f"{path}: calibration is not an object of what the thresholds rest on")
    return dict(calibration)

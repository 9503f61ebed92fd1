"""Heads: linear classifiers on pooled features, or on a fusion of several layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional

from adapters.backbone.features import FeatureSpec
from adapters.bundle import HEAD, BundleFiles, check_shapes
from registry.errors import BadManifest

MAX_LABELS = 10_000
MAX_WIDTH = 1_000_000

Features = Mapping[FeatureSpec, torch.Tensor]
"""The features [N, width] of a batch, by their spec."""


@dataclass(frozen=True)
class HeadOutput:
    """What a head computes for a batch, and what an OOD detector may use.

    Attributes:
        features: [N, width] for each spec that the head and the detector take.
        embedding: [N, inputs], the input of the linear classifier.
        logits: [N, classes].
    """

    features: Features
    embedding: torch.Tensor
    logits: torch.Tensor

    @property
    def predicted(self) -> torch.Tensor:
        """[N], the class with the largest logit."""
        return self.logits.argmax(dim=1)

    def only(self, rows: torch.Tensor) -> HeadOutput:
        """The output for some rows: [k] positions."""
        features = {spec: tensor[rows] for spec, tensor in self.features.items()}
        return HeadOutput(features, self.embedding[rows], self.logits[rows])


class Head(Protocol):
    """A classifier on a backbone's features."""

    @property
    def labels(self) -> tuple[str, ...]:
        """One per class."""

    @property
    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        """The features that it takes."""

    def __call__(self, features: Features) -> HeadOutput:
        """Classify a batch."""

    def document(self) -> dict[str, Any]:
        """The content of `head.json`."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """The content of `head.safetensors`."""


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier.

    Attributes:
        labels: one per class.
        feature_spec: the features that it takes.
        weight, bias: [classes, inputs] and [classes].
    """

    labels: tuple[str, ...]
    feature_spec: FeatureSpec
    weight: torch.Tensor
    bias: torch.Tensor

    @property
    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        """The features that it takes."""
        return (self.feature_spec,)

    def __call__(self, features: Features) -> HeadOutput:
        """Classify a batch."""
        embedding = features[self.feature_spec]
        return HeadOutput(features, embedding, functional.linear(embedding, self.weight, self.bias))

    def document(self) -> dict[str, Any]:
        """The content of `head.json`."""
        inputs = self.weight.shape[1]
        return {
            "kind": "linear",
            "features": self.feature_spec.document(),
            "inputs": inputs,
            "labels": list(self.labels),
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """The content of `head.safetensors`."""
        return {"weight": self.weight, "bias": self.bias}


@dataclass(frozen=True)
class FusionHead:
    """A linear classifier on a fusion of several layers: each projected, weighted by softmax(`scale_logits`), summed,
    layer-normalised. This is the head of the layout with `fusion.pth` and `classifier.pth`.

    Attributes:
        labels: one per class.
        feature_specs: one per layer.
        projections: weight [width, hidden] and bias [width] of each layer.
        scale_logits: [layers].
        norm: weight and bias of the layer norm, [width] each.
        classifier: weight [classes, width] and bias [classes].
        eps: of the layer norm.
    """

    labels: tuple[str, ...]
    feature_specs: tuple[FeatureSpec, ...]
    projections: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    scale_logits: torch.Tensor
    norm: tuple[torch.Tensor, torch.Tensor]
    classifier: tuple[torch.Tensor, torch.Tensor]
    eps: float = 1e-5

    def __call__(self, features: Features) -> HeadOutput:
        """Classify a batch."""
        shares = self.scale_logits.softmax(dim=0)
        fused = torch.stack(
            [
                share * functional.linear(features[spec], *projection)
                for share, spec, projection in zip(shares, self.feature_specs, self.projections, strict=True)
            ]
        ).sum(dim=0)
        embedding = functional.layer_norm(fused, fused.shape[-1:], *self.norm, eps=self.eps)
        return HeadOutput(features, embedding, functional.linear(embedding, *self.classifier))

    def document(self) -> dict[str, Any]:
        """The content of `head.json`."""
        return {
            "kind": "fusion",
            "features": [spec.document() for spec in self.feature_specs],
            "inputs": self.projections[0][0].shape[1],
            "width": self.norm[0].shape[0],
            "eps": self.eps,
            "labels": list(self.labels),
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """The content of `head.safetensors`."""
        tensors = {"scale_logits": self.scale_logits}
        for number, (weight, bias) in enumerate(self.projections):
            tensors |= {f"projections.{number}.weight": weight, f"projections.{number}.bias": bias}
        tensors |= {"norm.weight": self.norm[0], "norm.bias": self.norm[1]}
        return tensors | {"classifier.weight": self.classifier[0], "classifier.bias": self.classifier[1]}


def read_head(files: BundleFiles, folder: str, hidden_size: int, depth: int, device: str) -> Head:
    """Read the head in a folder of a bundle.

    Args:
        hidden_size, depth: the backbone's width and number of blocks.

    Raises:
        BadManifest, BadWeights, MissingBlob: when a file is missing, malformed, or does not fit the backbone.
    """
    path = f"{folder}/{HEAD}.json"
    document = files.document(path)
    kind = document.get("kind")
    if kind not in ("linear", "fusion"):
        raise BadManifest(f"{path}: a head of kind {str(kind)[:40]!r} is not known to this release")
    tensors = {name: tensor.to(device) for name, tensor in files.tensors(f"{folder}/{HEAD}.safetensors").items()}
    read = _read_linear if kind == "linear" else _read_fusion
    head: Head = read(document, tensors, hidden_size, depth, f"{folder}/{HEAD}")
    return head


def read_labels(document: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """Read the labels in a head's or a detector's document.

    Raises:
        BadManifest: when they are not a list of distinct names.
    """
    labels = document.get("labels")
    if not isinstance(labels, list) or not 0 < len(labels) <= MAX_LABELS or len(set(map(str, labels))) != len(labels):
        raise BadManifest(f"{path}: labels is not a list of distinct names")
    if not all(isinstance(label, str) and 0 < len(label) <= 200 for label in labels):
        raise BadManifest(f"{path}: a label is not a name of at most 200 characters")
    return tuple(labels)


def check_width(document: Mapping[str, Any], name: str, path: str, expected: int | None = None) -> int:
    """Read a width from a document; it must be `expected` if that is given.

    Raises:
        BadManifest: when it is not a positive number within bounds, or not the expected one.
    """
    width = document.get(name)
    if not isinstance(width, int) or isinstance(width, bool) or not 0 < width <= MAX_WIDTH:
        raise BadManifest(f"{path}: {name} is {str(width)[:40]!r}, not a positive number")
    if expected is not None and width != expected:
        raise BadManifest(f"{path}: {name} is {width}, but these features of the backbone are {expected} wide")
    return width


def _read_linear(
    document: Mapping[str, Any], tensors: dict[str, torch.Tensor], hidden_size: int, depth: int, path: str
) -> LinearHead:
    labels, spec = read_labels(document, path), FeatureSpec.of(document.get("features"), depth, path)
    inputs = check_width(document, "inputs", path, spec.width(hidden_size))
    check_shapes(tensors, {"weight": (len(labels), inputs), "bias": (len(labels),)}, path)
    return LinearHead(labels, spec, tensors["weight"], tensors["bias"])


def _read_fusion(
    document: Mapping[str, Any], tensors: dict[str, torch.Tensor], hidden_size: int, depth: int, path: str
) -> FusionHead:
    labels, places = read_labels(document, path), document.get("features")
    if not isinstance(places, list) or not 0 < len(places) <= depth + 1:
        raise BadManifest(f"{path}: features is not a list of layers")
    specs = tuple(FeatureSpec.of(place, depth, path) for place in places)
    widths = {spec.width(hidden_size) for spec in specs}
    inputs = check_width(document, "inputs", path, widths.pop() if len(widths) == 1 else 0)
    width, eps = check_width(document, "width", path), document.get("eps")
    if not isinstance(eps, float) or not 0 < eps < 1:
        raise BadManifest(f"{path}: eps is {str(eps)[:40]!r}, not a small number")
    shapes: dict[str, tuple[int, ...]] = {"scale_logits": (len(specs),), "norm.weight": (width,), "norm.bias": (width,)}
    for number in range(len(specs)):
        shapes |= {f"projections.{number}.weight": (width, inputs), f"projections.{number}.bias": (width,)}
    shapes |= {"classifier.weight": (len(labels), width), "classifier.bias": (len(labels),)}
    check_shapes(tensors, shapes, path)
    return FusionHead(
        labels,
        specs,
        tuple((tensors[f"projections.{n}.weight"], tensors[f"projections.{n}.bias"]) for n in range(len(specs))),
        tensors["scale_logits"],
        (tensors["norm.weight"], tensors["norm.bias"]),
        (tensors["classifier.weight"], tensors["classifier.bias"]),
        eps,
    )

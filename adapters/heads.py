"""From a backbone's tokens to a label: pooled features and a linear classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from adapters.bundle import HEAD, BundleFiles, check_shapes
from registry.errors import BadManifest

FEATURES = {"cls": 1, "cls+mean": 2}
"""Kinds of features, with their width in hidden sizes: the CLS token; and the mean of the patch tokens beside it."""

MAX_LABELS = 10_000


def pool(tokens: torch.Tensor, kind: str, prefix: int) -> torch.Tensor:
    """Features of each image.

    Args:
        tokens: [N, T, D], the backbone's last hidden states.
        kind: a key of `FEATURES`.
        prefix: tokens before the patches (CLS and registers).

    Returns:
        [N, D] or [N, 2 D].
    """
    cls = tokens[:, 0]
    return cls if kind == "cls" else torch.cat([cls, tokens[:, prefix:].mean(dim=1)], dim=1)


@dataclass(frozen=True)
class Head:
    """A linear classifier.

    Attributes:
        labels: one per class.
        features: the kind of features that it takes.
        weight, bias: [classes, inputs] and [classes].
    """

    labels: tuple[str, ...]
    features: str
    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """[N, inputs] -> logits [N, classes]."""
        return functional.linear(features, self.weight, self.bias)

    @property
    def bytes(self) -> int:
        """Memory of its tensors."""
        return int(self.weight.nbytes + self.bias.nbytes)

    def document(self) -> dict[str, Any]:
        """The content of `head.json`."""
        inputs = self.weight.shape[1]
        return {"kind": "linear", "features": self.features, "inputs": inputs, "labels": list(self.labels)}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The content of `head.safetensors`."""
        return {"weight": self.weight, "bias": self.bias}

    @classmethod
    def read(cls, files: BundleFiles, folder: str, device: str) -> Head:
        """The head in a folder of a bundle.

        Raises:
            BadManifest, BadWeights, MissingBlob: a file is missing or malformed.
        """
        path = f"{folder}/{HEAD}.json"
        document = files.document(path)
        labels, features, inputs = read_kind(document, "linear", path)
        tensors = files.tensors(f"{folder}/{HEAD}.safetensors")
        shapes: dict[str, tuple[int, ...]] = {"weight": (len(labels), inputs), "bias": (len(labels),)}
        check_shapes(tensors, shapes, f"{folder}/{HEAD}.safetensors")
        return cls(labels, features, tensors["weight"].to(device), tensors["bias"].to(device))


def read_kind(document: Mapping[str, Any], kind: str, path: str) -> tuple[tuple[str, ...], str, int]:
    """The labels, kind of features and number of inputs that a head's or a detector's document states.

    Raises:
        BadManifest: it is of another kind, or a field is missing or out of bounds.
    """
    labels, features, inputs = document.get("labels"), document.get("features"), document.get("inputs")
    if document.get("kind") != kind or features not in FEATURES:
        raise BadManifest(
            f"{path}: kind {document.get('kind')!r} on features {features!r} is not known to this release"
        )
    if not isinstance(inputs, int) or not 0 < inputs <= 1_000_000:
        raise BadManifest(f"{path}: inputs is {inputs!r}, not a positive number")
    if not isinstance(labels, list) or not 0 < len(labels) <= MAX_LABELS or len(set(map(str, labels))) != len(labels):
        raise BadManifest(f"{path}: labels is not a list of distinct names")
    if not all(isinstance(label, str) and 0 < len(label) <= 200 for label in labels):
        raise BadManifest(f"{path}: a label is not a name of at most 200 characters")
    return tuple(labels), features, inputs

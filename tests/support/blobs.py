"""Made-up features of two classes, and detectors fitted to them."""

from __future__ import annotations

from typing import Any

import torch

from adapters.answer.heads import HeadOutput
from adapters.answer.ood import Mahalanobis
from adapters.backbone.features import FeatureSpec
from adapters.fitting.mahalanobis import (
    DetectorData,
    fit_mahalanobis,
)

LABELS = ("rust", "mildew")


EARLY, LATE = FeatureSpec(1, "cls"), FeatureSpec(3, "cls")


EARLY, LATE = FeatureSpec(1, "cls"), FeatureSpec(3, "cls")


HIDDEN, DEPTH = 12, 3


HIDDEN, DEPTH = 12, 3


def blobs(count: int, seed: int, width: int = HIDDEN) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes in some dimensions, far from the origin so that normalising keeps them apart."""
    random = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % 2
    centres = torch.eye(width)[:2] * 20
    scale = torch.linspace(0.2, 2, width)
    return centres[classes] + scale * torch.randn(count, width, generator=random), classes


def strangers(count: int, seed: int) -> torch.Tensor:
    """Images of a third class."""
    random = torch.Generator().manual_seed(seed)
    return torch.eye(HIDDEN)[2] * 20 + torch.randn(count, HIDDEN, generator=random)


def noise(count: int, seed: int) -> torch.Tensor:
    """Features that know nothing."""
    return torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(seed))


def seen(features: torch.Tensor, predicted: torch.Tensor, spec: FeatureSpec = LATE) -> HeadOutput:
    """What a head hands to a detector, having predicted these classes."""
    return HeadOutput({spec: features}, features, torch.nn.functional.one_hot(predicted, 2).float())


def fitted(count: int = 400, others: dict[FeatureSpec, torch.Tensor] | None = None, **more: Any) -> Mahalanobis:
    """A detector of the two classes."""
    (train, classes), (val, predicted) = blobs(400, 0), blobs(count, 1)
    data = DetectorData({LATE: train}, classes, {LATE: val}, predicted, LABELS, others)
    return fit_mahalanobis(data, **more)

"""Is this image like those that the adapter was trained on? Mahalanobis distance to the predicted class.

The covariance is shared by the classes and shrunk (Ledoit & Wolf 2004), the features l2-normalised; see Lee et al.,
"A Simple Unified Framework for Detecting Out-of-Distribution Samples", 2018. Each class has a threshold of its own,
from held-out images: training images lie closer to their class than new ones, so that thresholds from them raise
more false alarms than were asked for.

In the measures below, in-distribution is the positive class, as in OpenOOD.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from adapters.bundle import OOD, BundleFiles, check_shapes
from adapters.heads import read_kind
from registry.errors import BadInput, BadManifest, BadWeights

FALSE_ALARM_RATE = 0.03
"""The share of in-distribution images that may be flagged, unless a fit asks for another."""

MIN_PER_LABEL = 50
"""Held-out images from which a class gets its own threshold; with fewer it takes the one of all classes together."""


@dataclass(frozen=True)
class Detector:
    """Mahalanobis distance to the predicted class, in units of that class's threshold.

    Attributes:
        labels: one per class, as in the head.
        features: the kind of features.
        means: [classes, inputs] of l2-normalised features.
        whitening: [inputs, inputs], W with W Wᵀ = the inverse of the shared covariance.
        thresholds: [classes], in distances.
        false_alarm_rate: what the thresholds were calibrated for.
        calibration: on what: the split and the number of images, in all and per label.
    """

    labels: tuple[str, ...]
    features: str
    means: torch.Tensor
    whitening: torch.Tensor
    thresholds: torch.Tensor
    false_alarm_rate: float
    calibration: dict[str, Any] = field(default_factory=dict)

    def __call__(self, features: torch.Tensor, predicted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and flags.

        Args:
            features: [N, inputs].
            predicted: [N], the class that the head chose.

        Returns:
            scores [N], 1 at the threshold and more when less like the class; flags [N], true above it.
        """
        scores = distances(features, predicted, self.means, self.whitening) / self.thresholds[predicted]
        return scores, scores > 1

    @property
    def bytes(self) -> int:
        """Memory of its tensors."""
        return int(self.means.nbytes + self.whitening.nbytes + self.thresholds.nbytes)

    def document(self) -> dict[str, Any]:
        """The content of `ood.json`."""
        return {
            "kind": "mahalanobis",
            "features": self.features,
            "inputs": self.means.shape[1],
            "labels": list(self.labels),
            "false_alarm_rate": self.false_alarm_rate,
            "calibration": self.calibration,
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """The content of `ood.safetensors`."""
        return {"means": self.means, "whitening": self.whitening, "thresholds": self.thresholds}

    @classmethod
    def read(cls, files: BundleFiles, folder: str, device: str) -> Detector:
        """The detector in a folder of a bundle.

        Raises:
            BadManifest, BadWeights, MissingBlob: a file is missing or malformed.
        """
        path = f"{folder}/{OOD}.json"
        document = files.document(path)
        labels, features, inputs = read_kind(document, "mahalanobis", path)
        rate = document.get("false_alarm_rate")
        if not isinstance(rate, float) or not 0 < rate < 1:
            raise BadManifest(f"{path}: false_alarm_rate is {rate!r}, not a number between 0 and 1")
        path = f"{folder}/{OOD}.safetensors"
        tensors = {name: tensor.to(device) for name, tensor in files.tensors(path).items()}
        count = len(labels)
        shapes = {"means": (count, inputs), "whitening": (inputs, inputs), "thresholds": (count,)}
        check_shapes(tensors, shapes, path)
        if not bool((tensors["thresholds"] > 0).all()):
            raise BadWeights(f"{path} has a threshold that is not positive")
        return cls(
            labels, features, **tensors, false_alarm_rate=rate, calibration=dict(document.get("calibration", {}))
        )


def distances(
    features: torch.Tensor, classes: torch.Tensor, means: torch.Tensor, whitening: torch.Tensor
) -> torch.Tensor:
    """The Mahalanobis distance of each row to its class: [N, inputs], [N] -> [N]."""
    centred = functional.normalize(features, dim=1) - means[classes]
    return (centred @ whitening).norm(dim=1)


def fit_classes(features: torch.Tensor, classes: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The means of `count` classes and the whitening matrix of their shared covariance, from training features.

    Raises:
        BadInput: a class has no image.
    """
    from sklearn.covariance import LedoitWolf

    normal = functional.normalize(features.double(), dim=1)
    if len(torch.unique(classes)) != count:
        raise BadInput("a label has no training image", hint="remove its folder or add images to it")
    means = torch.stack([normal[classes == number].mean(dim=0) for number in range(count)])
    covariance = LedoitWolf(assume_centered=True).fit((normal - means[classes]).numpy()).covariance_
    whitening = torch.linalg.cholesky(torch.linalg.inv(torch.from_numpy(covariance)))
    return means.float(), whitening.float()


def calibrate(
    held_out: torch.Tensor, predicted: torch.Tensor, means: torch.Tensor, whitening: torch.Tensor, rate: float
) -> torch.Tensor:
    """A threshold per class, so that about `rate` of new in-distribution images lie above it.

    Args:
        held_out: [N, inputs], features of images that were in no training batch.
        predicted: [N], what the head makes of them, as in use.

    Raises:
        BadInput: there is no held-out image, or the rate is not between 0 and 1.
    """
    if not len(held_out) or not 0 < rate < 1:
        raise BadInput(f"no threshold for a rate of {rate} from {len(held_out)} images", hint="add validation images")
    values = distances(held_out, predicted, means, whitening)
    overall = _upper_quantile(values, rate)
    own = [values[predicted == number] for number in range(len(means))]
    return torch.stack([_upper_quantile(mine, rate) if len(mine) >= MIN_PER_LABEL else overall for mine in own])


def _upper_quantile(values: torch.Tensor, rate: float) -> torch.Tensor:
    # The split-conformal quantile: a new value exceeds it with probability at most `rate`, if n allows such a one.
    rank = math.ceil((len(values) + 1) * (1 - rate))
    return values.sort().values[min(rank, len(values)) - 1]


def auroc(in_scores: Sequence[float], out_scores: Sequence[float]) -> float:
    """The probability that an out-of-distribution image scores higher than an in-distribution one; ties count half.

    Raises:
        BadInput: either is empty or has NaN.
    """
    inside, outside = _scores(in_scores), np.sort(_scores(out_scores))
    above = len(outside) - np.searchsorted(outside, inside, side="right")
    ties = len(outside) - np.searchsorted(outside, inside, side="left") - above
    return float((above + 0.5 * ties).sum() / (len(inside) * len(outside)))


def fpr_at_95_tpr(in_scores: Sequence[float], out_scores: Sequence[float]) -> float:
    """The share of out-of-distribution images that pass at the least threshold that lets 95% of the others pass.

    In-distribution is the positive class: true positives are in-distribution images that pass.

    Raises:
        BadInput: either is empty or has NaN.
    """
    inside, outside = np.sort(_scores(in_scores)), _scores(out_scores)
    threshold = inside[-(-95 * len(inside) // 100) - 1]
    return float((outside <= threshold).mean())


def _scores(values: Sequence[float]) -> np.ndarray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or bool(np.isnan(scores).any()):
        raise BadInput("scores must be a list of at least one number, none of them NaN")
    return scores

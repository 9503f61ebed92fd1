"""Evaluate a fitted version through its public interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from adapters.answer.loaded import LoadedVersion


@dataclass(frozen=True)
class TargetScore:
    """The results of a target's adapter on images that it was not trained on.

    Attributes:
        images: how many there are.
        accuracy, balanced_accuracy: of the labels; the second is the mean over labels.
        flagged: the share that the detector flags; all images are in-distribution.
        mean_blocks: the mean number of blocks of an answer.
    """

    images: int
    accuracy: float | None
    balanced_accuracy: float | None
    flagged: float | None
    mean_blocks: float | None


def score(version: LoadedVersion, target: str, squares: np.ndarray, labels: Sequence[str]) -> TargetScore:
    """Evaluate a version on images of a target, with the target given.

    Args:
        squares: [N, H, W, 3] uint8.
        labels: [N], the true labels.
    """
    if not len(squares):
        return TargetScore(0, None, None, None, None)
    predictions = version.predict(list(squares), target=target)
    right = [one.label == label for one, label in zip(predictions, labels, strict=True)]
    recalls = [fmean(ok for ok, label in zip(right, labels, strict=True) if label == each) for each in set(labels)]
    return TargetScore(
        images=len(predictions),
        accuracy=fmean(right),
        balanced_accuracy=fmean(sorted(recalls)),
        flagged=fmean(one.is_ood for one in predictions),
        mean_blocks=fmean(one.blocks_used for one in predictions),
    )


def routed_right(version: LoadedVersion, target: str, squares: np.ndarray) -> int:
    """How many images of a target the router assigns to it."""
    return sum(choice == target for choice, _ in version.route(list(squares)))


def share(right: int, images: int) -> dict[str, Any]:
    """A proportion and the number of images."""
    return {"images": images, "accuracy": right / images if images else None}

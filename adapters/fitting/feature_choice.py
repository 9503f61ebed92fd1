"""Choose the features (block and pooling) by which a detector separates best, on held-out images only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from adapters.backbone.features import POOLINGS, FeatureSpec
from adapters.fitting.ood_metrics import auroc, delong_variance

OTHERS = "AUROC against held-out images of other targets"
EACH_LABEL = "mean AUROC of each label in turn against the others"
"""The criteria by which features are chosen."""


class SeparationScore(NamedTuple):
    """How well a detector separates, and its standard error; None if there was nothing to compare."""

    auroc: float | None
    standard_error: float | None


def against_others(inside: torch.Tensor, outside: torch.Tensor) -> SeparationScore:
    """The score of a detector against images of other targets, which were not used in the training.

    Args:
        inside: [M], scores of the target's own images.
        outside: [K, classes], scores that the other images would have for each predicted class. The smallest is used:
            for any class the score is at least as high.
    """
    return _mean_auroc([(inside, outside.min(dim=1).values)])


def against_each_label(to_each: torch.Tensor, predicted: torch.Tensor) -> SeparationScore:
    """The score of a detector when each label in turn is treated as out-of-distribution: the mean over the labels, by
    the distance to the nearest of the other classes. Less reliable, because the adapter was trained to separate the
    labels.

    Args:
        to_each: [M, classes], distances of the target's own images.
        predicted: [M], the classes that the head gives them.
    """
    pairs = []
    for number in predicted.unique():
        nearest = to_each.index_fill(1, number, math.inf).min(dim=1).values
        pairs.append((nearest[predicted != number], nearest[predicted == number]))
    return _mean_auroc([pair for pair in pairs if len(pair[0])])


def choose(worth: Mapping[FeatureSpec, SeparationScore]) -> FeatureSpec:
    """The latest block, and there the widest features, among those within one standard error of the best.

    Smaller differences are chance, and late, wide features separate more in general. Source of the rule: L. Breiman et
    al., "Classification and Regression Trees", 1984, section 3.4.3.
    """
    best, error = max((one.auroc or 0.0, one.standard_error or 0.0) for one in worth.values())
    good = [spec for spec, one in worth.items() if (one.auroc or 0.0) >= best - error]
    return max(good, key=lambda spec: (spec.block, POOLINGS[spec.pooling], spec))


def record(criterion: str, worth: Mapping[FeatureSpec, SeparationScore], images: int, others: int) -> dict[str, Any]:
    """The choice as the calibration's document stores it: the criterion, the numbers of images, and each candidate's
    score.
    """
    candidates = [{"features": spec.document(), **one._asdict()} for spec, one in sorted(worth.items())]
    return {"criterion": criterion, "images": images, "others": others, "candidates": candidates}


def _mean_auroc(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> SeparationScore:
    """The mean over pairs of scores (inside, outside), and its standard error as if the pairs were independent."""
    if not pairs:
        return SeparationScore(None, None)
    scores = [(inside.numpy(), outside.numpy()) for inside, outside in pairs]
    areas = [auroc(inside, outside) for inside, outside in scores]
    variance = sum(delong_variance(inside, outside) for inside, outside in scores)
    return SeparationScore(sum(areas) / len(areas), None if math.isnan(variance) else math.sqrt(variance) / len(areas))

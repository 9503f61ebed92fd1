"""Which block, and which pooling, tell an adapter's images best from others? Judged on held-out images alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from adapters.answer.features import POOLINGS, Tap
from adapters.fitting.separation import auroc, delong_variance

OTHERS = "AUROC against held-out images of other targets"
EACH_LABEL = "mean AUROC of each label in turn against the others"
"""What taps are judged by."""


class Worth(NamedTuple):
    """How well a detector separates, and the standard error of that; None where there was nothing to compare."""

    auroc: float | None
    standard_error: float | None


def against_others(inside: torch.Tensor, outside: torch.Tensor) -> Worth:
    """What a detector is worth against images of other targets, which the adapter has not seen in training.

    Args:
        inside: [M], scores of the target's own images.
        outside: [K, classes], scores that the others' would have if the head took them for each class. The least
            stands for them: whichever class the head chooses, the score is no less.
    """
    return _mean_auroc([(inside, outside.min(dim=1).values)])


def against_each_label(to_each: torch.Tensor, predicted: torch.Tensor) -> Worth:
    """What it is worth when each label in turn plays the stranger: the mean over the labels, by the distance to the
    nearest of the other classes. A second best, because the adapter was trained to set each label apart.

    Args:
        to_each: [M, classes], distances of the target's own images.
        predicted: [M], the classes that the head gives them.
    """
    pairs = []
    for number in predicted.unique():
        nearest = to_each.index_fill(1, number, math.inf).min(dim=1).values
        pairs.append((nearest[predicted != number], nearest[predicted == number]))
    return _mean_auroc([pair for pair in pairs if len(pair[0])])


def choose(worth: Mapping[Tap, Worth]) -> Tap:
    """The latest block, and there the widest features, of those within one standard error of the best.

    What is left between them is chance, and late, wide features see more. Source of the rule: L. Breiman et al.,
    "Classification and Regression Trees", 1984, section 3.4.3.
    """
    best, error = max((one.auroc or 0.0, one.standard_error or 0.0) for one in worth.values())
    good = [tap for tap, one in worth.items() if (one.auroc or 0.0) >= best - error]
    return max(good, key=lambda tap: (tap.block, POOLINGS[tap.pooling], tap))


def record(criterion: str, worth: Mapping[Tap, Worth], images: int, others: int) -> dict[str, Any]:
    """The choice as a calibration's document keeps it: the criterion, what it rests on, and each candidate's value."""
    candidates = [{"features": tap.document(), **one._asdict()} for tap, one in sorted(worth.items())]
    return {"criterion": criterion, "images": images, "others": others, "candidates": candidates}


def _mean_auroc(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Worth:
    """The mean over pairs of scores inside and outside, and its standard error as if the pairs were independent."""
    if not pairs:
        return Worth(None, None)
    scores = [(inside.numpy(), outside.numpy()) for inside, outside in pairs]
    areas = [auroc(inside, outside) for inside, outside in scores]
    variance = sum(delong_variance(inside, outside) for inside, outside in scores)
    return Worth(sum(areas) / len(areas), None if math.isnan(variance) else math.sqrt(variance) / len(areas))

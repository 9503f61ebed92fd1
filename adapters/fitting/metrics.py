"""How good is what was fitted? Asked of the whole version, as those who use it will ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from adapters.answer.loaded import LoadedVersion


@dataclass(frozen=True)
class Score:
    """What a target's adapter makes of images that did not train it.

    Attributes:
        images: how many there were.
        accuracy, balanced_accuracy: of the labels; the second one is the mean over labels.
        flagged: the share that the detector calls unlike the training images; they are not.
        mean_blocks: blocks that an answer takes.
    """

    images: int
    accuracy: float | None
    balanced_accuracy: float | None
    flagged: float | None
    mean_blocks: float | None


def score(version: LoadedVersion, target: str, squares: np.ndarray, labels: Sequence[str]) -> Score:
    """Ask a version about images of a target, which is named.

    Args:
        squares: [N, H, W, 3] uint8.
        labels: [N], what is right.
    """
    if not len(squares):
        return Score(0, None, None, None, None)
    told = version.predict(list(squares), [target] * len(squares))
    right = [one.label == label for one, label in zip(told, labels, strict=True)]
    recalls = [fmean(ok for ok, label in zip(right, labels, strict=True) if label == each) for each in set(labels)]
    return Score(
        images=len(told),
        accuracy=fmean(right),
        balanced_accuracy=fmean(sorted(recalls)),
        flagged=fmean(one.is_ood for one in told),
        mean_blocks=fmean(one.blocks_used for one in told),
    )


def routed_right(version: LoadedVersion, target: str, squares: np.ndarray) -> int:
    """How many images of a target the router sends there."""
    return sum(choice == target for choice, _ in version.route(list(squares)))


def share(right: int, images: int) -> dict[str, Any]:
    """A share with what it is of."""
    return {"images": images, "accuracy": right / images if images else None}

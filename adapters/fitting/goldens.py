"""Choose which outputs of a version are recorded: those of images that are clear of every decision boundary.

A version must reproduce them on other machines, whose processors round differently. Images near a decision boundary
(between two labels, at the OOD threshold, at an exit's threshold) could change without a fault.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from adapters.answer.early_exits import Depth
from adapters.answer.loaded import LoadedVersion

COUNT = 8
"""The maximum number of recorded outputs per component; up to a quarter of them are flagged images."""

CANDIDATES = 8 * COUNT
"""How many images they are chosen from."""

_MARGIN = 0.5
"""The smallest difference between the two largest logits."""
_OOD_MARGIN = 0.05
"""The smallest distance of the OOD score from 1."""
_EXIT_MARGIN = 0.1
"""The smallest difference between the log odds of the label at an exit and those of its threshold."""


def goldens_of(version: LoadedVersion, images: np.ndarray, target: str | None) -> dict[str, np.ndarray]:
    """The outputs to record for a component.

    Args:
        images: [N, H, W, 3] uint8, squares that were in no training batch.
        target: an adapter's target, or None for the router.

    Returns:
        The same as `LoadedVersion.golden_outputs`, for at most `COUNT` images.
    """
    outputs = version.golden_outputs(images, target)
    component = version.components.router if target is None else version.components.adapters[target]
    clear = _clear(outputs)
    if component and component.depth and component.depth.mode == "dynamic":
        clear &= _far_from_exits(version, images, target, component.depth)
    scores = outputs.get("ood_score", np.zeros(len(clear)))
    rows = np.flatnonzero(clear if clear.any() else np.ones_like(clear))
    flagged = [int(row) for row in rows if scores[row] > 1][: COUNT // 4]
    passing = [int(row) for row in rows if scores[row] <= 1][: COUNT - len(flagged)]
    picked = sorted(flagged + passing)
    return {name: array[picked] for name, array in outputs.items()}


def _clear(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    ordered = np.sort(outputs["logits"], axis=1)
    wide = ordered[:, -1] - ordered[:, -2] >= _MARGIN if ordered.shape[1] > 1 else np.ones(len(ordered), bool)
    scores = outputs.get("ood_score", np.zeros(len(wide)))
    return np.asarray(wide & (np.abs(scores - 1) >= _OOD_MARGIN))


def _far_from_exits(version: LoadedVersion, images: np.ndarray, target: str | None, depth: Depth) -> np.ndarray:
    features = version.features_at(
        list(images), target, [spec for stage in depth.exits for spec in stage.head.feature_specs]
    )
    far = np.ones(len(images), bool)
    for stage in depth.exits:
        with torch.no_grad():
            odds = _log_odds(stage.head(features).logits.softmax(dim=1).amax(dim=1).double())
        threshold = _log_odds(torch.tensor(stage.threshold, dtype=torch.float64))
        far &= ((odds - threshold).abs() >= _EXIT_MARGIN).cpu().numpy()
    return far


def _log_odds(probability: torch.Tensor) -> torch.Tensor:
    return torch.logit(probability, eps=1e-9)

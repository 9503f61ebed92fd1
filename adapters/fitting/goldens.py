"""Which outputs of a version are recorded: of images that are far enough from every decision's border.

A version that is loaded elsewhere must give them again, on a processor that rounds otherwise. An image between two
labels, at its threshold, or about as sure as an exit asks for, could come out differently without anything being wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from adapters.answer.depth import Depth
from adapters.answer.loaded import LoadedVersion

COUNT = 8
"""Recorded outputs per component, at most; a quarter of them flagged ones if there are any."""

CANDIDATES = 8 * COUNT
"""Images that they are chosen from."""

_MARGIN = 0.5
"""Between the two best logits."""
_OOD_MARGIN = 0.05
"""Between the OOD score and 1."""
_EXIT_MARGIN = 0.1
"""Between the log odds of the label at an exit and those that it asks for."""


def goldens_of(version: LoadedVersion, images: np.ndarray, target: str | None) -> dict[str, np.ndarray]:
    """What to record of a component.

    Args:
        images: [N, H, W, 3] uint8, squares that were in no training batch.
        target: an adapter's, or None for the router's.

    Returns:
        As `LoadedVersion.golden_outputs`, of `COUNT` images at most.
    """
    outputs = version.golden_outputs(images, target)
    component = version.parts.router if target is None else version.parts.adapters[target]
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
    return wide & (np.abs(outputs.get("ood_score", np.zeros(len(wide))) - 1) >= _OOD_MARGIN)


def _far_from_exits(version: LoadedVersion, images: np.ndarray, target: str | None, depth: Depth) -> np.ndarray:
    features = version.features_at(list(images), target, [tap for stage in depth.exits for tap in stage.head.taps])
    far = np.ones(len(images), bool)
    for stage in depth.exits:
        with torch.no_grad():
            odds = _log_odds(stage.head(features).logits.softmax(dim=1).amax(dim=1).double())
        asked = _log_odds(torch.tensor(stage.threshold, dtype=torch.float64))
        far &= ((odds - asked).abs() >= _EXIT_MARGIN).cpu().numpy()
    return far


def _log_odds(probability: torch.Tensor) -> torch.Tensor:
    return torch.logit(probability, eps=1e-9)

"""Choose how many blocks an adapter needs: thresholds of early exits, or a static cut, on held-out images.

There are two ways to save blocks: rows leave at the first exit whose head is confident enough (dynamic), or all rows
leave at one block (static). A static cut needs no thresholds, keeps batches together and has the same latency for every
image; so dynamic must be clearly better to be recommended.

Both are chosen on one half of the images and evaluated on the other, and vice versa; the stricter of the two choices is
used. So the reported loss comes from images that were not used for the choice, and the actual loss is at most as large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from registry.errors import BadInput

DepthMode: TypeAlias = Literal["full", "dynamic", "static"]

ALLOWED_LOSS = 0.005
"""The allowed loss of accuracy on held-out images, compared with full depth."""

THRESHOLDS = tuple(1 / (1 + math.exp(-step / 2)) for step in range(1, 25))
"""The candidate thresholds, one for all exits: probabilities in steps of half a unit of log odds. There are few,
because few candidates can't be overfitted much."""

MARGIN = 4
"""How many steps stricter than necessary for the images that it was chosen on a threshold is set: two units of log
odds. There are few images: an error that occurred in none of a hundred may occur in one of the next hundred. On
handwritten digits (two tiny backbones, three targets, 210 to 320 images, validation and test images in either role) a
margin of one unit left 6 of 12 choices unconfirmed by the other half, and two units 2; no confirmed choice lost more
than 0.42 points on the third set of images. The margin costs about half a block of six."""

MIN_IMAGES = 100
"""With fewer held-out images only full depth is recommended."""

CLEARLY = 0.05
"""The share of all blocks that a mode must save more than a simpler one to be recommended instead of it."""


@dataclass(frozen=True)
class DepthChoice:
    """The result of the calibration.

    Attributes:
        recommended: full, dynamic or static.
        threshold: the probability from which rows may leave early; None if no threshold keeps the allowed loss.
        cut: the smallest block that keeps the allowed loss for all rows; None if only the last one does.
        report: the measurements behind the choice, as JSON.
    """

    recommended: DepthMode
    threshold: float | None
    cut: int | None
    report: dict[str, Any]


class _Outcome(NamedTuple):
    """The result of a setting: which rows are right [N], and how many blocks each passes [N]."""

    right: torch.Tensor
    blocks: torch.Tensor


_Setting: TypeAlias = float | int
"""A threshold or a block; larger is stricter."""


def choose_depth(
    logits: Mapping[int, torch.Tensor], classes: torch.Tensor, *, allowed_loss: float = ALLOWED_LOSS
) -> DepthChoice:
    """Calibrate the depth on held-out images.

    Args:
        logits: block -> [N, C], the logits of the head there; the largest block is full depth. The order of rows must
            be random.
        classes: [N], the true classes.
        allowed_loss: of accuracy against full depth.

    Raises:
        BadInput: when there is no image, or no exit before the last block.
    """
    blocks = sorted(logits)
    if len(classes) == 0 or len(blocks) < 2:
        raise BadInput("calibrating the depth needs at least one held-out image and one exit before the last block")
    depth = blocks[-1]
    full = _static(logits, classes, depth)
    dynamic = _DepthOption(full.right, THRESHOLDS, MARGIN, lambda one: _dynamic(logits, classes, one), allowed_loss)
    static = _DepthOption(full.right, blocks, 0, lambda block: _static(logits, classes, int(block)), allowed_loss)
    threshold, cut = dynamic.choice(), static.choice()
    mean = None if threshold is None else float(_dynamic(logits, classes, threshold).blocks.double().mean())
    recommended, why = _recommend(len(classes), depth, mean, int(cut) if cut else depth)
    report = {
        "images": len(classes),
        "allowed_loss": allowed_loss,
        "blocks": depth,
        "accuracy_by_block": [[block, _share(_static(logits, classes, block).right)] for block in blocks],
        "full": {"accuracy": _share(full.right), "mean_blocks": float(depth)},
        "dynamic": None if threshold is None else {"threshold": threshold, **dynamic.judged(threshold)},
        "static": None if cut in (None, depth) else {"block": cut, **static.judged(cut)},
        "static_of_same_mean_depth": None if mean is None else _same_depth(static, blocks, mean),
        "recommended": recommended,
        "why": why,
    }
    return DepthChoice(recommended, threshold, None if cut in (None, depth) else int(cut), report)


@dataclass(frozen=True)
class _DepthOption:
    """A way to save blocks, with a setting to choose.

    Attributes:
        reference: [N], which rows are right at full depth.
        settings: the candidates, from lax to strict.
        margin: how many steps stricter than necessary the setting is.
        evaluate: computes the outcome of a setting for all rows.
    """

    reference: torch.Tensor
    settings: Sequence[_Setting]
    margin: int
    evaluate: Callable[[_Setting], _Outcome]
    allowed_loss: float

    def choice(self) -> _Setting | None:
        """The stricter of the two halves' choices, if each keeps the loss on the other half; otherwise None."""
        chosen = self._chosen_by_halves()
        if None in chosen or self._loss_on_others(chosen) > self.allowed_loss:
            return None
        return max(setting for setting in chosen if setting is not None)

    def judged(self, setting: _Setting) -> dict[str, Any]:
        """The measurements of a setting: on all images, and the loss on images that were not used for the choice."""
        outcome = self.evaluate(setting)
        spoilt = int((self.reference & ~outcome.right).sum())
        return {
            "accuracy": _share(outcome.right),
            "mean_blocks": float(outcome.blocks.double().mean()),
            "leaving_blocks": outcome.blocks.unique().tolist(),
            "loss": _share(self.reference) - _share(outcome.right),
            "loss_on_other_half": self._loss_on_others(
                [self._chosen_on(rows) for rows in _halves(len(self.reference))]
            ),
            "spoilt": spoilt,
            "spoilt_share_at_most": _upper_bound(spoilt, len(self.reference)),
        }

    def _chosen_by_halves(self) -> list[_Setting | None]:
        return [self._chosen_on(rows) for rows in _halves(len(self.reference))]

    def _chosen_on(self, rows: slice) -> _Setting | None:
        """The laxest setting that, with all stricter ones, keeps the loss on some rows; plus the margin."""
        kept = None
        for position in reversed(range(len(self.settings))):
            if self._loss(self.settings[position], rows) > self.allowed_loss:
                break
            kept = position
        return None if kept is None else self.settings[min(kept + self.margin, len(self.settings) - 1)]

    def _loss(self, setting: _Setting, rows: slice) -> float:
        return _share(self.reference[rows]) - _share(self.evaluate(setting).right[rows])

    def _loss_on_others(self, chosen: Sequence[_Setting | None]) -> float:
        """The loss of each half with the other half's choice, together."""
        total = 0.0
        for setting, rows in zip(reversed(chosen), _halves(len(self.reference)), strict=True):
            if setting is None:
                return math.inf
            total += self._loss(setting, rows) * len(self.reference[rows])
        return total / len(self.reference)


def _halves(count: int) -> tuple[slice, slice]:
    return slice(0, count, 2), slice(1, count, 2)


def _static(logits: Mapping[int, torch.Tensor], classes: torch.Tensor, block: int) -> _Outcome:
    return _Outcome(logits[block].argmax(dim=1) == classes, torch.full_like(classes, block))


def _dynamic(logits: Mapping[int, torch.Tensor], classes: torch.Tensor, threshold: float) -> _Outcome:
    last, *earlier = sorted(logits, reverse=True)
    right, blocks = _static(logits, classes, last)
    for block in earlier:
        sure = logits[block].softmax(dim=1).amax(dim=1) >= threshold
        right = torch.where(sure, logits[block].argmax(dim=1) == classes, right)
        blocks = torch.where(sure, block, blocks)
    return _Outcome(right, blocks)


def _same_depth(static: _DepthOption, blocks: Sequence[int], mean: float) -> dict[str, Any]:
    """The static cut with the same mean depth, rounded up to a block that has a head."""
    block = min(block for block in blocks if block >= mean)
    outcome = static.evaluate(block)
    return {
        "block": block,
        "accuracy": _share(outcome.right),
        "loss": _share(static.reference) - _share(outcome.right),
    }


def _recommend(images: int, depth: int, dynamic: float | None, static: int) -> tuple[DepthMode, str]:
    """The mode to use, and the reason, given the mean blocks of dynamic and the block of static."""
    clearly = CLEARLY * depth
    if images < MIN_IMAGES:
        return "full", f"{images} held-out images are fewer than {MIN_IMAGES}: too few to measure a loss"
    if dynamic is not None and dynamic + clearly < min(static, depth):
        return "dynamic", f"exits take {dynamic:.2f} blocks on average, no static cut takes as few at the allowed loss"
    if static + clearly < depth:
        return "static", f"a static cut after block {static} is as good as exits, and simpler"
    return "full", "nothing saves blocks at the allowed loss"


def _share(right: torch.Tensor) -> float:
    return float(right.double().mean()) if len(right) else 0.0


def _upper_bound(count: int, n: int, confidence: float = 0.95) -> float:
    """The upper confidence bound of a proportion of `count` in `n`; Clopper and Pearson 1934, one-sided."""
    from scipy.stats import beta

    return 1.0 if count >= n else float(beta.ppf(confidence, count + 1, n - count))

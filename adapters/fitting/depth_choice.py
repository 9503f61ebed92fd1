"""How deep must an adapter go? Thresholds of early exits, and the static cut beside them, on held-out images.

Two ways to save blocks, which cost the same pains: rows that leave at the first exit whose head is sure enough
(dynamic), or all rows at one smaller block (static). A static cut needs no thresholds, keeps batches together and has
the same latency for every image; so the dynamic way must be clearly better to be recommended.

Both are chosen on one half of the images and judged on the other, and the other way round; the stricter of the two
choices is what is taken. So what is said of the loss comes from images that had no say in the choice, and what is used
loses, if anything, less.
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
"""The share of held-out images that may be right at full depth and are not any more, less those that become right."""

THRESHOLDS = tuple(1 / (1 + math.exp(-step / 2)) for step in range(1, 25))
"""Probabilities of the label from which on a row may leave, one for all exits: half a unit of log odds apart, and few,
because few choices can't be overfitted much."""

MARGIN = 4
"""Settings by which a threshold is stricter than the images that it was chosen on ask for: two units of log odds. They
are few: what none of a hundred lost, one of the next hundred may. On handwritten digits (two tiny backbones, three
targets, 210 to 320 images, validation and test images in either role) a margin of one unit left 6 of 12 choices
unconfirmed by the other half and two units 2; none of those confirmed lost more than 0.42 points on the third set of
images. It costs about half a block of six."""

MIN_IMAGES = 100
"""Held-out images below which nothing shallower than full depth is recommended."""

CLEARLY = 0.05
"""The share of all blocks that one way must save more than a simpler one to be recommended instead of it."""


@dataclass(frozen=True)
class DepthChoice:
    """What held-out images say about depth.

    Attributes:
        recommended: full, dynamic or static.
        threshold: the least probability at which rows may leave early; None if no threshold keeps the allowed loss.
        cut: the smallest block that keeps the allowed loss for all rows; None if only the last one does.
        report: the numbers that the choice rests on, as JSON.
    """

    recommended: DepthMode
    threshold: float | None
    cut: int | None
    report: dict[str, Any]


class _Walk(NamedTuple):
    """What a way of going through the blocks gives: which rows are right [N], how many blocks each takes [N]."""

    right: torch.Tensor
    blocks: torch.Tensor


_Setting: TypeAlias = float | int
"""A threshold or a block; the larger one is the stricter one."""


def choose_depth(
    logits: Mapping[int, torch.Tensor], classes: torch.Tensor, *, allowed_loss: float = ALLOWED_LOSS
) -> DepthChoice:
    """Calibrate the depth on held-out images.

    Args:
        logits: block -> [N, C], what the head there makes of the images; the largest block is full depth. The rows come
            in an order that means nothing.
        classes: [N], what is right.
        allowed_loss: of accuracy against full depth.

    Raises:
        BadInput: there is no image, or no exit before the last block.
    """
    blocks = sorted(logits)
    if len(classes) == 0 or len(blocks) < 2:
        raise BadInput("depth is calibrated on at least one held-out image and one exit before the last block")
    depth = blocks[-1]
    full = _static(logits, classes, depth)
    dynamic = _Way(full.right, THRESHOLDS, MARGIN, lambda one: _dynamic(logits, classes, one), allowed_loss)
    static = _Way(full.right, blocks, 0, lambda block: _static(logits, classes, int(block)), allowed_loss)
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
class _Way:
    """A way to go less deep, with a setting to choose.

    Attributes:
        reference: [N], which rows are right at full depth.
        settings: what it can be set to, the laxest first.
        margin: how many of them stricter it is set than the images ask for.
        walk: what a setting gives for all rows.
    """

    reference: torch.Tensor
    settings: Sequence[_Setting]
    margin: int
    walk: Callable[[_Setting], _Walk]
    allowed_loss: float

    def choice(self) -> _Setting | None:
        """The stricter of what the two halves choose, if what each chooses holds on the other; None if not."""
        chosen = self._chosen_by_halves()
        if None in chosen or self._loss_on_others(chosen) > self.allowed_loss:
            return None
        return max(setting for setting in chosen if setting is not None)

    def judged(self, setting: _Setting) -> dict[str, Any]:
        """What is known of a setting: on all images, and of the loss where the choice was not made."""
        walk = self.walk(setting)
        spoilt = int((self.reference & ~walk.right).sum())
        return {
            "accuracy": _share(walk.right),
            "mean_blocks": float(walk.blocks.double().mean()),
            "leaving_blocks": walk.blocks.unique().tolist(),
            "loss": _share(self.reference) - _share(walk.right),
            "loss_on_other_half": self._loss_on_others(
                [self._chosen_on(rows) for rows in _halves(len(self.reference))]
            ),
            "spoilt": spoilt,
            "spoilt_share_at_most": _upper_bound(spoilt, len(self.reference)),
        }

    def _chosen_by_halves(self) -> list[_Setting | None]:
        return [self._chosen_on(rows) for rows in _halves(len(self.reference))]

    def _chosen_on(self, rows: slice) -> _Setting | None:
        """The laxest setting that keeps the loss on some rows, together with all that are stricter; and the margin."""
        kept = None
        for position in reversed(range(len(self.settings))):
            if self._loss(self.settings[position], rows) > self.allowed_loss:
                break
            kept = position
        return None if kept is None else self.settings[min(kept + self.margin, len(self.settings) - 1)]

    def _loss(self, setting: _Setting, rows: slice) -> float:
        return _share(self.reference[rows]) - _share(self.walk(setting).right[rows])

    def _loss_on_others(self, chosen: Sequence[_Setting | None]) -> float:
        """Of each half with what the other one chose, together."""
        total = 0.0
        for setting, rows in zip(reversed(chosen), _halves(len(self.reference)), strict=True):
            if setting is None:
                return math.inf
            total += self._loss(setting, rows) * len(self.reference[rows])
        return total / len(self.reference)


def _halves(count: int) -> tuple[slice, slice]:
    return slice(0, count, 2), slice(1, count, 2)


def _static(logits: Mapping[int, torch.Tensor], classes: torch.Tensor, block: int) -> _Walk:
    return _Walk(logits[block].argmax(dim=1) == classes, torch.full_like(classes, block))


def _dynamic(logits: Mapping[int, torch.Tensor], classes: torch.Tensor, threshold: float) -> _Walk:
    last, *earlier = sorted(logits, reverse=True)
    right, blocks = _static(logits, classes, last)
    for block in earlier:
        sure = logits[block].softmax(dim=1).amax(dim=1) >= threshold
        right = torch.where(sure, logits[block].argmax(dim=1) == classes, right)
        blocks = torch.where(sure, block, blocks)
    return _Walk(right, blocks)


def _same_depth(static: _Way, blocks: Sequence[int], mean: float) -> dict[str, Any]:
    """The static cut of the same mean depth, rounded up to a block that has a head."""
    block = min(block for block in blocks if block >= mean)
    walk = static.walk(block)
    return {"block": block, "accuracy": _share(walk.right), "loss": _share(static.reference) - _share(walk.right)}


def _recommend(images: int, depth: int, dynamic: float | None, static: int) -> tuple[DepthMode, str]:
    """What to use, and why, given the mean blocks of the dynamic way and the block of the static one."""
    clearly = CLEARLY * depth
    if images < MIN_IMAGES:
        return "full", f"{images} held-out images are fewer than {MIN_IMAGES}: too few to tell a loss"
    if dynamic is not None and dynamic + clearly < min(static, depth):
        return "dynamic", f"exits take {dynamic:.2f} blocks on average, no static cut takes as few at the allowed loss"
    if static + clearly < depth:
        return "static", f"a static cut after block {static} is as good as exits, and simpler"
    return "full", "nothing saves blocks at the allowed loss"


def _share(right: torch.Tensor) -> float:
    return float(right.double().mean()) if len(right) else 0.0


def _upper_bound(count: int, n: int, confidence: float = 0.95) -> float:
    """The largest share that is still likely after `count` of `n`; Clopper and Pearson 1934, one-sided."""
    from scipy.stats import beta

    return 1.0 if count >= n else float(beta.ppf(confidence, count + 1, n - count))

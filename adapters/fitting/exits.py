"""Exits at earlier blocks: heads and detectors there, and whether to use them.

Labels may be had early; telling foreign images apart takes more blocks. On handwritten digits exits that kept the
accuracy sent most images out after 2 of 6 blocks, and the AUROC against other digits fell from .99 to .84. So what is
recommended stands only on blocks whose detector tells other images apart nearly as well as at full depth, and is
checked again as a whole. Who asks for exits or for a cut gets what keeps the accuracy, and is told what else it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from adapters.answer.answering import Stage
from adapters.answer.depth import Depth
from adapters.answer.features import Tap
from adapters.answer.heads import Features, Head
from adapters.answer.ood import Mahalanobis
from adapters.fitting.depth_choice import DepthChoice, choose_depth
from adapters.fitting.regression import linear_head
from adapters.fitting.separation import auroc

ALLOWED_OOD_LOSS = 0.01
"""What AUROC against other targets' held-out images may lose to full depth."""

FitDetector = Callable[[Head, int], Mahalanobis]
"""Fits a detector for a head that looks no further than a block."""


def fit_depth(
    wanted: str,
    last: Stage,
    *,
    taps: Mapping[int, Tap],
    seen: Mapping[str, Features],
    classes: Mapping[str, torch.Tensor],
    fit_detector: FitDetector,
) -> Depth:
    """Fit exits and choose what to do with them.

    Args:
        wanted: `dynamic`, `static` or `auto`.
        last: head and detector at full depth.
        taps: block -> where an exit there takes its features.
        seen: features of `train`, `val` and `others`, the other targets' images, of which there may be none.
        classes: of `train` and `val`, [N].

    Returns:
        The depth. Its mode is what was asked for if the accuracy on held-out images allows it, or what is recommended;
        full, without exits, otherwise. The report says what was seen.
    """
    assert isinstance(last.detector, Mahalanobis)  # noqa: S101  this fit has made it
    exits, worth = {}, {last.block: _worth(last.detector)}
    for block, tap in taps.items():
        head = linear_head(seen["train"][tap], classes["train"], last.head.labels, tap)
        exits[block] = Stage(head, detector := fit_detector(head, block))
        worth[block] = _worth(detector)
    sound = {block: exits[block] for block in exits if _is_good(worth[block], worth[last.block])}
    best = _Plan.of(sound, last, seen, classes["val"]).within_ood_loss()
    plan = best if wanted == "auto" else _Plan.of(exits, last, seen, classes["val"])
    mode = best.mode if wanted == "auto" else wanted if wanted in plan.ways else "full"
    ood = {
        "allowed_loss": ALLOWED_OOD_LOSS,
        "auroc_by_block": [[block, worth[block]] for block in sorted(worth)],
        "auroc": {way: _auroc(stages, seen) for way, stages in plan.ways.items()},
    }
    report = {**plan.report, "mode": mode, "recommended": best.mode, "why": best.why, "ood": ood}
    kept = tuple(stage for stage in plan.ways[mode] if stage.block < last.block)
    return Depth(mode, kept, kept[0].block if mode == "static" else None, report)


def ood_note(report: Mapping[str, Any]) -> list[str]:
    """What a depth's report says of foreign images, for people: a sentence if they are told apart less well."""
    mode, areas = report["mode"], report["ood"]["auroc"]
    if _is_good(areas[mode], areas["full"]):
        return []
    return [
        f"{mode} depth tells other targets' images apart with an AUROC of {areas[mode]:.3f}, "
        f"full depth with {areas['full']:.3f}"
    ]


@dataclass(frozen=True)
class _Plan:
    """What held-out images say of some exits.

    Attributes:
        mode: what is recommended, and `why`.
        ways: the stages of each mode that keeps the accuracy.
        areas: of each, the AUROC against other targets' images.
        report: of the accuracy.
    """

    mode: str
    why: str
    ways: Mapping[str, tuple[Stage, ...]]
    areas: Mapping[str, float | None]
    report: Mapping[str, Any]

    @classmethod
    def of(cls, exits: Mapping[int, Stage], last: Stage, seen: Mapping[str, Features], classes: torch.Tensor) -> _Plan:
        """Choose on held-out images."""
        if not exits:
            ways = {"full": (last,)}
            return cls("full", f"no block before {last.block} tells other images apart as well", ways, {}, {})
        logits = {stage.block: stage.head(seen["val"]).logits for stage in (*exits.values(), last)}
        choice = choose_depth(logits, classes)
        ways = _ways(choice, exits, last)
        areas = {way: _auroc(stages, seen) for way, stages in ways.items()}
        return cls(choice.recommended, choice.report["why"], ways, areas, choice.report)

    def within_ood_loss(self) -> _Plan:
        """The same, recommending nothing that costs more of the AUROC than is allowed."""
        if _is_good(self.areas.get(self.mode), self.areas.get("full")):
            return self
        if "static" in self.ways and _is_good(self.areas["static"], self.areas["full"]):
            return replace(self, mode="static", why="exits tell other images apart less well, the static cut does not")
        return replace(self, mode="full", why=f"{self.mode} depth tells other images apart less well")


def _worth(detector: Mahalanobis) -> float:
    """The AUROC by which the detector's block was chosen."""
    choice = detector.calibration["choice"]
    own = next(one for one in choice["candidates"] if one["features"] == detector.tap.document())
    return float(own["auroc"] or 0.0)


def _ways(choice: DepthChoice, exits: Mapping[int, Stage], last: Stage) -> dict[str, tuple[Stage, ...]]:
    """The stages of each mode that keeps the accuracy; of the exits those at which no held-out image leaves go."""
    ways = {"full": (last,)}
    if choice.threshold is not None:
        blocks = choice.report["dynamic"]["leaving_blocks"]
        ways["dynamic"] = (
            *(Stage(exits[b].head, exits[b].detector, choice.threshold) for b in sorted(exits) if b in blocks),
            last,
        )
    if choice.cut is not None:
        # The threshold of a static cut is not looked at, but must be a positive number.
        ways["static"] = (Stage(exits[choice.cut].head, exits[choice.cut].detector, 1.0),)
    return ways


def _auroc(stages: Sequence[Stage], seen: Mapping[str, Features]) -> float | None:
    """Of the target's held-out images against those of other targets, as they would be scored; None without others."""
    inside, outside = (_scores(stages, seen[name]).numpy() for name in ("val", "others"))
    return auroc(inside, outside) if len(outside) else None


def _is_good(area: float | None, full: float | None) -> bool:
    return area is None or full is None or area >= full - ALLOWED_OOD_LOSS


@torch.no_grad()
def _scores(stages: Sequence[Stage], features: Features) -> torch.Tensor:
    """[N], each row's score at the stage from which it leaves; all leave at the last one at the latest."""
    scores = torch.empty(len(next(iter(features.values()))))
    rows = torch.arange(len(scores))
    for stage in (*stages[:-1], replace(stages[-1], threshold=0.0)):
        leaving, answers = stage.answer({tap: own[rows] for tap, own in features.items()})
        staying = torch.ones(len(rows), dtype=torch.bool)
        staying[leaving] = False
        scores[rows[~staying]] = torch.tensor([one.score for one in answers])
        rows = rows[staying]
    return scores
